//! Which agent of Infinium a process is, and the keys of agents.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use reqwest::header::HeaderValue;
use serde::Deserialize;
use uuid::Uuid;

use crate::trace::CallRecord;

/// Shortest key (`validate_agent_credentials`, infinium-o2 1.2.0).
const KEY_CHARS: usize = 8;

/// Longest file of a key that is read, in bytes.
const KEY_BYTES: u64 = 64 * 1024;

/// Which processes are an agent: those to which all that is given applies. The first agent that a process may be, it
/// is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// Name of the process; `*` stands for any characters and `?` for one, as in all patterns here.
    pub comm: Option<String>,
    /// Path of the executed file, a pattern.
    pub exe: Option<String>,
    /// Id of the container, a pattern: `3f2a*` for an id that begins so, `?*` for any container.
    pub container_id: Option<String>,
    /// Namespace of the Kubernetes pod, a pattern.
    pub namespace: Option<String>,
    /// What manages the pod, such as a Deployment, a pattern.
    pub workload: Option<String>,
    /// Real user id of the process.
    pub uid: Option<u32>,
    /// Process id.
    pub pid: Option<u32>,
    /// The agent's id, a UUID.
    pub agent_id: String,
    /// File that has the agent's secret.
    pub key_file: Option<PathBuf>,
    /// Environment variable that has the agent's secret.
    pub key_env: Option<String>,
}

/// The agents, in order.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

/// An agent and its key.
#[derive(Debug)]
pub(super) struct Rule {
    agent: Agent,
    pub(super) id: Uuid,
    pub(super) key: Key,
}

/// An agent's secret. It is shown nowhere.
#[derive(Clone)]
pub(super) struct Key(HeaderValue);

impl Rules {
    /// Reads the keys of the agents.
    ///
    /// # Errors
    ///
    /// An agent's id is no UUID, or its key cannot be had.
    pub(super) fn new(agents: &[Agent]) -> anyhow::Result<Self> {
        let rules = agents.iter().enumerate().map(|(index, agent)| {
            Rule::new(agent).with_context(|| format!("export.infinium.agent {}", index + 1))
        });
        rules.collect::<anyhow::Result<_>>().map(Self)
    }

    /// Adds one that every process is that is no other.
    ///
    /// # Errors
    ///
    /// Its id is no UUID.
    pub(super) fn add(&mut self, agent_id: &str, key: Key) -> anyhow::Result<()> {
        self.0.push(Rule {
            agent: Agent::default(),
            id: uuid(agent_id)?,
            key,
        });
        Ok(())
    }

    /// The agent that made a call.
    pub(super) fn find(&self, call: &CallRecord) -> Option<Uuid> {
        let rule = self.0.iter().find(|rule| rule.agent.is(call))?;
        Some(rule.id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }
}

impl Rule {
    fn new(agent: &Agent) -> anyhow::Result<Self> {
        let id = uuid(&agent.agent_id)?;
        let key = match (&agent.key_file, &agent.key_env) {
            (Some(path), None) => Key::read(path),
            (None, Some(name)) => Key::from_env(name),
            _ => bail!("either key_file or key_env has to be given"),
        };
        Ok(Self {
            agent: agent.clone(),
            id,
            key: key.with_context(|| format!("agent {id}"))?,
        })
    }
}

impl Agent {
    fn is(&self, call: &CallRecord) -> bool {
        let fits = |pattern: &Option<String>, value: &Option<String>| {
            pattern.as_deref().is_none_or(|pattern| {
                value
                    .as_deref()
                    .is_some_and(|value| matches(pattern, value))
            })
        };
        let none = None;
        let pod = call.kubernetes.as_deref();
        fits(&self.comm, &call.comm)
            && fits(&self.namespace, pod.map_or(&none, |pod| &pod.namespace))
            && fits(&self.workload, pod.map_or(&none, |pod| &pod.workload))
            && fits(&self.exe, &call.exe)
            && fits(&self.container_id, &call.container_id)
            && self.uid.is_none_or(|uid| call.uid == Some(uid))
            && self.pid.is_none_or(|pid| call.pid == pid)
    }
}

impl Key {
    /// Takes a key without the white space around it.
    ///
    /// # Errors
    ///
    /// It is too short, or cannot be sent. The error does not show it.
    pub(super) fn new(key: &str) -> anyhow::Result<Self> {
        let key = key.trim();
        ensure!(
            key.chars().count() >= KEY_CHARS,
            "the key has fewer than {KEY_CHARS} characters"
        );
        let Ok(mut value) = HeaderValue::from_str(key) else {
            bail!("the key has characters that no header field may have");
        };
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// Reads a key from a file.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), or the file cannot be read.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let place = || format!("cannot take a key from {}", path.display());
        let length = fs::metadata(path).with_context(place)?.len();
        ensure!(length <= KEY_BYTES, "{}: it is too long", place());
        let key = fs::read_to_string(path).with_context(place)?;
        Self::new(&key).with_context(place)
    }

    fn from_env(name: &str) -> anyhow::Result<Self> {
        let place = || format!("cannot take a key from the environment variable {name}");
        // The error of `env::var` would show what is no Unicode.
        let Some(Ok(key)) = env::var_os(name).map(std::ffi::OsString::into_string) else {
            bail!("{}: it is not set, or no text", place());
        };
        Self::new(&key).with_context(place)
    }

    /// What to send.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// An id as the SDK takes it: with hyphens (`validate_path_id`, infinium-o2 1.2.0).
fn uuid(id: &str) -> anyhow::Result<Uuid> {
    let id = id.trim();
    Uuid::try_parse(id)
        .ok()
        .filter(|_| id.len() == uuid::fmt::Hyphenated::LENGTH)
        .with_context(|| format!("agent_id: {id:?} is no UUID"))
}

/// Whether a pattern fits all of a text.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows does not fit: behind the last star, one character further on.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((behind, from)) = star else {
                    return false;
                };
                star = Some((behind, from + 1));
                (p, t) = (behind, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::record::tests::call;

    const ID: &str = "0af76519-16cd-43dd-8448-eb211c80319c";
    const SECRET: &str = "inf-THIS-KEY-IS-SECRET";

    fn agent(number: u128, fill: impl FnOnce(&mut Agent)) -> Rule {
        let mut agent = Agent {
            agent_id: ID.to_owned(),
            ..Agent::default()
        };
        fill(&mut agent);
        Rule {
            agent,
            id: Uuid::from_u128(number),
            key: Key::new(SECRET).unwrap(),
        }
    }

    #[test]
    fn patterns_fit_the_whole_text() {
        for (pattern, text, fits) in [
            ("python*", "python3.11", true),
            ("python*", "python", true),
            ("python", "python3", false),
            ("*on?", "python3", true),
            ("*/bin/*", "/usr/bin/node", true),
            ("?*", "", false),
            ("", "", true),
            ("*a*b", "aaab", true),
            ("*a*b", "aaba", false),
            ("漢?", "漢字", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
        let stars = "*a".repeat(500);
        assert!(!matches(&stars, &"a".repeat(499)));
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = Rules(vec![
            agent(0, |agent| agent.container_id = Some("?*".to_owned())),
            agent(1, |agent| {
                agent.comm = Some("python*".to_owned());
                agent.uid = Some(0);
            }),
            agent(2, |agent| {
                agent.exe = Some("/usr/bin/python3.11".to_owned())
            }),
            agent(3, |agent| agent.comm = Some("python3".to_owned())),
            agent(4, |agent| agent.pid = Some(4242)),
        ]);
        let mut call = call();
        let agent = |number| Some(Uuid::from_u128(number));
        assert_eq!(rules.find(&call), agent(2));
        call.uid = Some(0);
        assert_eq!(rules.find(&call), agent(1));
        call.container_id = Some("3f2a".to_owned());
        assert_eq!(rules.find(&call), agent(0));
        (call.container_id, call.uid, call.exe) = (None, None, None);
        assert_eq!(rules.find(&call), agent(3));
        call.comm = None;
        assert_eq!(rules.find(&call), agent(4));
        call.pid = 1;
        assert_eq!(rules.find(&call), None);
    }

    #[test]
    fn keys_are_never_shown() {
        let rule = agent(0, |_| ());
        assert!(!format!("{rule:?} {:?}", rule.key.header()).contains(SECRET));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for bad in [
            format!("{SECRET}\u{7}x").into_bytes(),
            [SECRET.as_bytes(), b"\xff"].concat(),
            b"short".to_vec(),
        ] {
            fs::write(&path, bad).unwrap();
            let error = format!("{:?}", Key::read(&path).unwrap_err());
            assert!(
                !error.contains("SECRET") && error.contains(path.to_str().unwrap()),
                "{error}"
            );
        }
        fs::write(&path, format!("  {SECRET}\n")).unwrap();
        assert_eq!(
            Key::read(&path).unwrap().header().as_bytes(),
            SECRET.as_bytes()
        );
    }

    #[test]
    fn agents_without_id_or_key_are_refused_with_the_place() {
        let error = |fill: &dyn Fn(&mut Agent)| {
            let mut agent = agent(0, |_| ()).agent;
            fill(&mut agent);
            format!("{:#}", Rules::new(&[agent]).unwrap_err())
        };
        assert_eq!(
            error(&|agent| agent.agent_id = "../x".to_owned()),
            "export.infinium.agent 1: agent_id: \"../x\" is no UUID"
        );
        let simple = ID.replace('-', "");
        assert!(error(&|agent| agent.agent_id = simple.clone()).contains("no UUID"));
        assert!(error(&|_| ()).contains("either key_file or key_env"));
        assert!(
            error(&|agent| agent.key_env = Some("OBSERVER_NO_SUCH".to_owned())).contains(
                "cannot take a key from the environment variable OBSERVER_NO_SUCH: it is not set"
            )
        );
        assert!(
            error(&|agent| agent.key_file = Some("/nowhere".into()))
                .contains("cannot take a key from /nowhere: No such file")
        );
    }
}
