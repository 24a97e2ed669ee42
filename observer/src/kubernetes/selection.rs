//! Which pods are watched.

use std::{collections::BTreeMap, str::FromStr};

use kube::core::{Expression, Selector, SelectorExt as _};

/// A name in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Names of namespaces are labels of DNS (RFC 1123).
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-*".contains(c);
        if text.is_empty() || !text.chars().all(allowed) {
            return Err("no name of a namespace: a-z, 0-9, - and *".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl Pattern {
    /// Whether it stands for a name.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else {
            return rest.is_empty();
        };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// A selector of labels, as `kubectl --selector` takes it.
///
/// Grammar: `k8s.io/apimachinery/pkg/labels`, `Parse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSelector(Selector);

impl FromStr for PodSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut expressions = Vec::new();
        for requirement in split(text)? {
            expressions.push(expression(requirement.trim())?);
        }
        Ok(Self(expressions.into_iter().collect()))
    }
}

/// At the commas outside parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match (c, inside) {
            ('(', false) => inside = true,
            (')', true) => inside = false,
            ('(', true) | (')', false) => return Err("parentheses that do not fit".to_owned()),
            (',', false) => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("a parenthesis that is not closed".to_owned());
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn expression(text: &str) -> Result<Expression, String> {
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Expression::DoesNotExist(self::key(key)?));
    }
    if let Some((left, values)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let values = values.split(',').map(value).collect::<Result<_, _>>()?;
        let mut words = left.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(name), Some("in"), None) => Ok(Expression::In(key(name)?, values)),
            (Some(name), Some("notin"), None) => Ok(Expression::NotIn(key(name)?, values)),
            _ => Err(format!(
                "{text:?} is neither `KEY in (…)` nor `KEY notin (…)`"
            )),
        };
    }
    if let Some((name, wanted)) = text.split_once("!=") {
        return Ok(Expression::NotEqual(key(name)?, value(wanted)?));
    }
    if let Some((name, wanted)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Expression::Equal(key(name)?, value(wanted)?));
    }
    Ok(Expression::Exists(key(text)?))
}

/// A label's key: a name, after a domain and a slash or not.
fn key(text: &str) -> Result<String, String> {
    let text = text.trim();
    let name = text.rsplit_once('/').map_or(text, |(_, name)| name);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if name.is_empty() || text.matches('/').count() > 1 || !text.chars().all(allowed) {
        return Err(format!("{text:?} is no key of a label"));
    }
    Ok(text.to_owned())
}

/// A label's value, which may be empty.
fn value(text: &str) -> Result<String, String> {
    let text = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.len() > 63 || !text.chars().all(allowed) {
        return Err(format!("{text:?} is no value of a label"));
    }
    Ok(text.to_owned())
}

/// Which processes are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only pods of these namespaces; of all if there are none.
    pub namespaces: Vec<Pattern>,
    /// No pods of these.
    pub excluded_namespaces: Vec<Pattern>,
    /// Only pods with these labels.
    pub pods: Option<PodSelector>,
    /// No process outside pods.
    pub pods_only: bool,
}

impl Selection {
    /// Whether anything is left out.
    pub fn is_any(&self) -> bool {
        self.pods_only || self.needs_metadata()
    }

    /// Whether a pod's uid is not enough to tell.
    pub fn needs_metadata(&self) -> bool {
        !self.namespaces.is_empty() || !self.excluded_namespaces.is_empty() || self.pods.is_some()
    }

    /// Whether a pod is watched.
    pub fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let is_one = |patterns: &[Pattern]| {
            let mut patterns = patterns.iter();
            patterns.any(|pattern| pattern.matches(namespace))
        };
        (self.namespaces.is_empty() || is_one(&self.namespaces))
            && !is_one(&self.excluded_namespaces)
            && self.pods.as_ref().is_none_or(|pods| pods.0.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn patterns_stand_for_names() {
        let fits = |pattern: &str, name| pattern.parse::<Pattern>().unwrap().matches(name);
        assert!(fits("shop", "shop") && !fits("shop", "shops") && !fits("shop", "sho"));
        assert!(fits("team-*", "team-a") && fits("team-*", "team-") && !fits("team-*", "team"));
        assert!(fits("*", "a") && fits("*-prod", "a-prod") && !fits("*-prod", "a-prod-b"));
        assert!(fits("a*b*c", "axxbyyc") && !fits("a*b*c", "acb") && !fits("ab*b", "ab"));
        for text in ["", "Shop", "a b", "a/b", "a,b"] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn selectors_are_those_of_kubectl() {
        let pod = labels("app=web,tier=a,app.kubernetes.io/name=shop");
        for (selector, fits) in [
            ("app=web", true),
            ("app==web", true),
            ("app = web", true),
            ("app=api", false),
            ("app!=api", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("tier in (a, b)", true),
            ("tier in (b)", false),
            ("tier notin (b,c)", true),
            ("missing notin (b)", true),
            ("missing in (b)", false),
            ("app=web,tier in (a,b),!missing", true),
            ("app=web,tier in (b,c)", false),
            ("app.kubernetes.io/name=shop", true),
            ("missing=", false),
        ] {
            let parsed: PodSelector = selector.parse().unwrap();
            let selection = Selection {
                pods: Some(parsed),
                ..Selection::default()
            };
            assert_eq!(selection.selects("any", &pod), fits, "{selector}");
        }
        for text in [
            "",
            "=web",
            "app=a b",
            "app in a",
            "app in (a",
            "app in (a))",
            "app like (a)",
            "a/b/c=d",
            "app=web,",
            "in (a)",
            "app=ä",
            "app>1",
        ] {
            assert!(text.parse::<PodSelector>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn namespaces_and_labels_must_both_fit() {
        let selection = Selection {
            namespaces: vec!["team-*".parse().unwrap()],
            excluded_namespaces: vec!["team-secret".parse().unwrap()],
            pods: Some("observe!=no".parse().unwrap()),
            pods_only: false,
        };
        assert!(selection.selects("team-a", &labels("")));
        assert!(!selection.selects("team-secret", &labels("")));
        assert!(!selection.selects("kube-system", &labels("")));
        assert!(!selection.selects("team-a", &labels("observe=no")));
        assert!(Selection::default().selects("any", &labels("")) && !Selection::default().is_any());
    }
}
