//! The configuration file: TOML whose keys are the options of the command line.
//!
//! There is one list of options, clap's. What the file says becomes the default of the option, below the
//! environment and the command line, so the file takes what the option takes and nothing else. The place of an
//! option in the file follows from its name, or from the heading of its help (`place`).

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    ffi::{OsStr, OsString},
    fmt::{self, Write as _},
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};
use reqwest::Url;
use serde::{Deserialize as _, de::DeserializeOwned};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The file that is read if it is there and no other is named.
const DEFAULT: &str = "/etc/observer/observer.toml";

/// The option, and its clap id, that names the file.
const CONFIG: &str = "config";

/// What is shown instead of a secret.
const SECRET: &str = "***";

/// The subcommand that reads it though nobody names it: what a service is set up to do is nothing that other uses of
/// the same machine should do, too.
const OF_SERVICE: &str = "watch";

/// The sections, in the order in which they are shown. The options whose names begin with the prefix belong to
/// a section; else those under the heading.
const SECTIONS: &[Section] = &[
    Section {
        name: "watch",
        of: Of::Heading("Watching"),
    },
    Section {
        name: "records",
        of: Of::Heading("Records"),
    },
    Section {
        name: "trace",
        of: Of::Prefix("trace-"),
    },
    Section {
        name: "kubernetes",
        of: Of::Prefix("kubernetes-"),
    },
    Section {
        name: "export",
        of: Of::Heading("Export"),
    },
    Section {
        name: "export.infinium",
        of: Of::Prefix("infinium-"),
    },
    Section {
        name: "export.otlp",
        of: Of::Prefix("otlp-"),
    },
    Section {
        name: "export.prometheus",
        of: Of::Prefix("prometheus-"),
    },
];

/// Lists of tables, which no option could hold. Who reads them is [`File::tables`]'s caller.
const TABLES: &[Tables] = &[Tables {
    section: "export.infinium",
    key: "agent",
    example: "\
# Which processes are which agent; the first that fits decides. In patterns, * stands for any characters.
agent_id = \"00000000-0000-0000-0000-000000000000\"
key_file = \"/etc/observer/agent.key\"   # or key_env, the name of a variable
comm = \"python*\"                      # name of the process
exe = \"/usr/bin/python3*\"             # path of the executed file
container_id = \"?*\"                   # any container
namespace = \"shop\"                    # of the Kubernetes pod, with --kubernetes-metadata
workload = \"web\"                      # what manages the pod, such as a Deployment
uid = 1000
pid = 4242
",
}];

/// Options of which a file may set one only, and which give way to each other: who is named on the command line
/// or in the environment wins over the file.
const EXCLUSIVE: &[(&str, &str)] = &[("all", "pid"), ("no-plaintext", "plaintext")];

struct Section {
    name: &'static str,
    of: Of,
}

enum Of {
    Heading(&'static str),
    Prefix(&'static str),
}

struct Tables {
    section: &'static str,
    key: &'static str,
    /// One table, as it may stand in a file, with comments.
    example: &'static str,
}

/// A file that has been read and found valid.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    text: String,
    /// By the long name of the option.
    values: BTreeMap<String, Value>,
    tables: AllTables,
}

/// Of each list of tables, by section and key: what the tables say, wherever they stand in the file.
type AllTables = BTreeMap<(&'static str, &'static str), Vec<toml::Value>>;

#[derive(Clone, Debug)]
struct Value {
    values: Vec<String>,
    line: usize,
}

/// The command line, the environment and the file, put together.
pub struct Loaded<T> {
    /// The options.
    pub options: T,
    /// The file, if there is one.
    pub file: Option<File>,
    /// What holds, and where it is from.
    pub effective: Effective,
}

/// What holds, and where it is from: by the long name of the option.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    values: BTreeMap<String, (Vec<OsString>, Origin)>,
    tables: AllTables,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    CommandLine,
    Default,
    Environment,
    /// The line.
    File(usize),
}

/// Why there are no options.
#[derive(Debug)]
pub enum Failure {
    /// The file.
    File(anyhow::Error),
    /// The command line or the environment; or help was asked for.
    Usage(clap::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "{error:#}"),
            Self::Usage(error) => write!(f, "{}", error.to_string().trim_end()),
        }
    }
}

/// Reads the command line, the environment and the file that they name, or the one in its usual place.
///
/// # Errors
///
/// Something in them is not valid.
pub fn load<T: CommandFactory + FromArgMatches>(args: &[OsString]) -> Result<Loaded<T>, Failure> {
    let usage = |command: &mut Command, error: clap::Error| Failure::Usage(error.format(command));
    let parse = |command: &Command| {
        let matches = command.clone().try_get_matches_from(args);
        matches.map_err(|error| Failure::Usage(discreet(error, command)))
    };
    let mut command = T::command();
    let mut matches = parse(&command)?;
    let mut file = None;
    if let Some((name, chosen)) = matches.subcommand()
        && let Some(path) = path(name, chosen)
    {
        let read = File::read(&path, &command).map_err(Failure::File)?;
        let explicit = |long: &str| is_explicit(&command, name, chosen, long);
        command = read.apply(command.clone(), name, &explicit);
        matches = parse(&command)?;
        file = Some(read);
    }
    let effective = matches
        .subcommand()
        .map_or_else(Effective::default, |(name, chosen)| {
            Effective::new(&command, name, chosen, file.as_ref())
        });
    let options = T::from_arg_matches(&matches).map_err(|error| usage(&mut command, error))?;
    Ok(Loaded {
        options,
        file,
        effective,
    })
}

/// An error that shows no secret. Those of a file are found before, so it is of the command line or the environment.
fn discreet(mut error: clap::Error, command: &Command) -> clap::Error {
    let is_meant = |shown: &str, arg: &Arg| {
        // `--name <VALUE>`
        let name = shown
            .strip_prefix("--")
            .and_then(|name| name.split([' ', '=', '[']).next());
        name.is_some() && name == arg.get_long()
    };
    let secret = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(shown)) => command
            .get_subcommands()
            .flat_map(Command::get_arguments)
            .any(|arg| arg.is_hide_env_values_set() && is_meant(shown, arg)),
        _ => false,
    };
    if secret && error.get(ContextKind::InvalidValue).is_some() {
        error.insert(
            ContextKind::InvalidValue,
            ContextValue::String(SECRET.to_owned()),
        );
    }
    error
}

/// The file that a subcommand reads.
fn path(subcommand: &str, matches: &ArgMatches) -> Option<PathBuf> {
    // Panics for a subcommand that has no such option otherwise.
    let named = matches.try_get_one::<PathBuf>(CONFIG).ok()?;
    let default = || {
        let path = PathBuf::from(DEFAULT);
        (subcommand == OF_SERVICE && path.exists()).then_some(path)
    };
    named.cloned().or_else(default)
}

fn is_explicit(command: &Command, subcommand: &str, matches: &ArgMatches, long: &str) -> bool {
    let sources = [ValueSource::CommandLine, ValueSource::EnvVariable].map(Some);
    option(command, subcommand, long)
        .is_some_and(|arg| sources.contains(&matches.value_source(arg.get_id().as_str())))
}

fn option<'a>(command: &'a Command, subcommand: &str, long: &str) -> Option<&'a Arg> {
    let mut args = command.find_subcommand(subcommand)?.get_arguments();
    args.find(|arg| arg.get_long() == Some(long))
}

/// Where an option is in the file: its section and its key, which is its name without the section's.
fn place(arg: &Arg) -> Option<(&'static str, String)> {
    let long = arg
        .get_long()
        .filter(|long| ![CONFIG, "help", "version"].contains(long))?;
    let by_prefix = SECTIONS.iter().find_map(|section| match section.of {
        // `--prometheus` is the address to listen on.
        Of::Prefix(prefix) if prefix.strip_suffix('-') == Some(long) => {
            Some((section.name, "listen"))
        }
        Of::Prefix(prefix) => Some((section.name, long.strip_prefix(prefix)?)),
        Of::Heading(_) => None,
    });
    let by_heading = || {
        let of = arg.get_help_heading();
        let mut sections = SECTIONS.iter();
        let section = sections
            .find(|section| matches!(section.of, Of::Heading(heading) if of == Some(heading)))?;
        Some((section.name, long))
    };
    let (section, key) = by_prefix.or_else(by_heading)?;
    Some((section, key.replace('-', "_")))
}

/// Every option that a file may set, in the order of their help, section by section.
fn keys(command: &Command) -> Vec<(&'static str, String, Arg)> {
    let mut keys: Vec<(&'static str, String, Arg)> = Vec::new();
    for subcommand in command.get_subcommands() {
        if !subcommand
            .get_arguments()
            .any(|arg| arg.get_long() == Some(CONFIG))
        {
            continue;
        }
        for arg in subcommand.get_arguments() {
            let Some((section, key)) = place(arg) else {
                continue;
            };
            // The same option of another subcommand.
            if !keys
                .iter()
                .any(|known| (known.0, &known.1) == (section, &key))
            {
                keys.push((section, key, arg.clone()));
            }
        }
    }
    keys.sort_by_key(|(section, ..)| SECTIONS.iter().position(|known| known.name == *section));
    keys
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

impl File {
    /// Reads and checks a file against the options of `command`'s subcommands.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not valid: every problem with its place.
    pub fn read(path: &Path, command: &Command) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
        Self::parse(path, text, command)
    }

    fn parse(path: &Path, text: String, command: &Command) -> anyhow::Result<Self> {
        let mut reader = Reader {
            text: &text,
            keys: keys(command),
            values: BTreeMap::new(),
            tables: BTreeMap::new(),
            problems: Vec::new(),
        };
        match DeTable::parse(&text) {
            Ok(document) => reader.table("", document.get_ref()),
            Err(error) => reader.problem(error.span().unwrap_or_default(), "", error.message()),
        }
        let Reader {
            values,
            tables,
            mut problems,
            ..
        } = reader;
        for (one, other) in EXCLUSIVE {
            let set = |long: &str| {
                let value: Option<&Value> = values.get(long);
                value.filter(|value| value.values.iter().any(|text| text != "false"))
            };
            if let (Some(one_is), Some(other_is)) = (set(one), set(other)) {
                problems.push(Problem {
                    line: one_is.line.max(other_is.line),
                    column: 1,
                    text: format!(
                        "{} and {} exclude each other",
                        one.replace('-', "_"),
                        other.replace('-', "_")
                    ),
                });
            }
        }
        if problems.is_empty() {
            return Ok(Self {
                path: path.to_owned(),
                values,
                tables,
                text,
            });
        }
        problems.sort_by_key(|problem| (problem.line, problem.column));
        let lines = problems.iter().map(|Problem { line, column, text }| {
            format!("{}:{line}:{column}: {text}", path.display())
        });
        anyhow::bail!("{}", lines.collect::<Vec<_>>().join("\n"))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The list of tables of a key, empty if the file has none.
    ///
    /// # Errors
    ///
    /// A table is not as it has to be; says where.
    pub fn tables<T: DeserializeOwned>(&self, section: &str, key: &str) -> anyhow::Result<Vec<T>> {
        let at = |error: toml::de::Error, span: Option<Range<usize>>| {
            let (line, column) = position(&self.text, span.unwrap_or_default().start);
            let path = self.path.display();
            let message = error.message().trim_end();
            anyhow::anyhow!("{path}:{line}:{column}: {section}.{key}: {message}")
        };
        let document = DeTable::parse(&self.text).map_err(|error| {
            let span = error.span();
            at(error, span)
        })?;
        let mut table = document.get_ref();
        for name in section.split('.') {
            match table.get(name).map(Spanned::get_ref) {
                Some(DeValue::Table(inner)) => table = inner,
                _ => return Ok(Vec::new()),
            }
        }
        let Some(value) = table.get(key) else {
            return Ok(Vec::new());
        };
        let whole = value.span();
        let deserializer = toml::de::ValueDeserializer::from(value.clone());
        Vec::<T>::deserialize(deserializer).map_err(|error| {
            let span = error.span().or(Some(whole));
            at(error, span)
        })
    }

    /// Makes what the file says the defaults of a subcommand's options.
    fn apply(
        &self,
        command: Command,
        subcommand: &str,
        explicit: &impl Fn(&str) -> bool,
    ) -> Command {
        let defaults: Vec<(String, Vec<String>)> = self
            .values
            .iter()
            .filter(|(long, _)| {
                !EXCLUSIVE.iter().any(|(one, other)| {
                    *long == one && explicit(other) || *long == other && explicit(one)
                })
            })
            .filter_map(|(long, value)| {
                let arg = option(&command, subcommand, long)?;
                Some((arg.get_id().to_string(), value.values.clone()))
            })
            .collect();
        command.mut_subcommand(subcommand, |chosen| {
            defaults.into_iter().fold(chosen, |chosen, (id, values)| {
                chosen.mut_arg(id, |arg| arg.default_values(values))
            })
        })
    }
}

struct Problem {
    line: usize,
    column: usize,
    text: String,
}

struct Reader<'a> {
    text: &'a str,
    keys: Vec<(&'static str, String, Arg)>,
    values: BTreeMap<String, Value>,
    tables: AllTables,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// Reads a table: the whole file if it has no name.
    fn table(&mut self, name: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = match name {
                "" => key.get_ref().to_string(),
                name => format!("{name}.{}", key.get_ref()),
            };
            let is_section = SECTIONS.iter().any(|section| section.name == path);
            let tables = TABLES
                .iter()
                .find(|tables| tables.section == name && tables.key == key.get_ref().as_ref());
            let option = self
                .keys
                .iter()
                .find(|(section, known, _)| *section == name && *known == *key.get_ref());
            match (value.get_ref(), option, tables) {
                (DeValue::Table(inner), ..) if is_section => self.table(&path, inner),
                (_, Some((.., arg)), _) => {
                    let arg = arg.clone();
                    self.value(&path, &arg, value);
                }
                (DeValue::Array(tables), None, Some(known)) => {
                    let tables = tables.iter().map(|table| {
                        let deserializer = toml::de::ValueDeserializer::from(table.clone());
                        toml::Value::deserialize(deserializer)
                    });
                    match tables.collect() {
                        Ok(tables) => {
                            self.tables.insert((known.section, known.key), tables);
                        }
                        Err(error) => self.problem(value.span(), &path, error.message()),
                    }
                }
                (_, None, Some(_)) => self.problem(
                    value.span(),
                    &path,
                    &format!("a list of tables is expected: [[{path}]]"),
                ),
                _ if is_section => {
                    let section = format!("it is a section: [{path}]");
                    self.problem(value.span(), &path, &section);
                }
                _ => {
                    let hint = self.hint(name, key.get_ref());
                    let what = match value.get_ref() {
                        DeValue::Table(_) => "there is no such section",
                        _ => "there is no such key",
                    };
                    self.problem(key.span(), &path, &format!("{what}{hint}"));
                }
            }
        }
    }

    fn value(&mut self, path: &str, arg: &Arg, value: &Spanned<DeValue<'_>>) {
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(items) if is_list(arg) => items.iter().collect(),
            _ => vec![value],
        };
        let mut values = Vec::new();
        for item in items {
            match text(arg, item.get_ref()).and_then(|text| fits(arg, &text).map(|()| text)) {
                Ok(text) => values.push(text),
                Err(message) => {
                    // Of a secret, not even what is wrong with it.
                    let message = match arg.is_hide_env_values_set() {
                        true => format!("it is no {}", value_name(arg)),
                        false => message,
                    };
                    self.problem(item.span(), path, &message);
                }
            }
        }
        let line = position(self.text, value.span().start).0;
        if let Some(long) = arg.get_long() {
            self.values.insert(long.to_owned(), Value { values, line });
        }
    }

    /// What may have been meant.
    fn hint(&self, section: &str, key: &str) -> String {
        let paths = self
            .keys
            .iter()
            .map(|(section, key, _)| (*section, key.as_str()))
            .chain(TABLES.iter().map(|tables| (tables.section, tables.key)));
        if let Some((section, _)) = paths.clone().find(|(_, known)| *known == key) {
            return format!("; {key} belongs to [{section}]");
        }
        // Sections of which the name is that of the table within `export`, too.
        let sections = SECTIONS.iter().filter_map(|known| match section {
            "" => Some(known.name),
            section => known.name.strip_prefix(section)?.strip_prefix('.'),
        });
        let near = paths
            .filter(|(known, _)| *known == section)
            .map(|(_, key)| key)
            .chain(sections)
            .map(|known| (strsim::jaro_winkler(known, key), known))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match near {
            Some((likeness, known)) if likeness > 0.8 => format!("; is {known} meant?"),
            _ => String::new(),
        }
    }

    fn problem(&mut self, span: Range<usize>, path: &str, message: &str) {
        let (line, column) = position(self.text, span.start);
        let message = message.trim_end();
        let text = match path {
            "" => message.to_owned(),
            path => format!("{path}: {message}"),
        };
        self.problems.push(Problem { line, column, text });
    }
}

/// Line and column, from one, of a byte.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
}

/// A value as the command line would have it.
fn text(arg: &Arg, value: &DeValue<'_>) -> Result<String, String> {
    let expected = match arg.get_action() {
        ArgAction::SetTrue => "true or false".to_owned(),
        ArgAction::Append => format!("a list of {}", value_name(arg)),
        _ => value_name(arg),
    };
    let found = value.type_str();
    match value {
        DeValue::Boolean(value) => Ok(value.to_string()),
        _ if is_flag(arg) => Err(format!(
            "{expected} is expected, not a value of type {found}"
        )),
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        _ => Err(format!(
            "{expected} is expected, not a value of type {found}"
        )),
    }
}

/// Whether an option takes a value.
fn fits(arg: &Arg, text: &str) -> Result<(), String> {
    if is_flag(arg) {
        return Ok(());
    }
    let parser = Arg::new("value")
        .long("value")
        .require_equals(true)
        .value_parser(arg.get_value_parser().clone());
    let command = Command::new("value").no_binary_name(true).arg(parser);
    let Err(error) = command.try_get_matches_from([format!("--value={text}")]) else {
        return Ok(());
    };
    let possible = arg.get_possible_values();
    let expected = if !possible.is_empty() {
        let names = possible.iter().map(|value| value.get_name());
        format!(
            "one of {} is expected",
            names.collect::<Vec<_>>().join(", ")
        )
    } else if let Some(why) = error.source() {
        format!("{} is expected: {why}", value_name(arg))
    } else {
        format!("{} is expected", value_name(arg))
    };
    Err(format!("{expected}, not {text:?}"))
}

fn value_name(arg: &Arg) -> String {
    arg.get_value_names()
        .and_then(|names| names.first())
        .map_or("a value".to_owned(), |name| name.to_string())
}

impl Effective {
    fn new(command: &Command, subcommand: &str, matches: &ArgMatches, file: Option<&File>) -> Self {
        let args = command
            .find_subcommand(subcommand)
            .into_iter()
            .flat_map(Command::get_arguments);
        let value = |arg: &Arg| {
            let (long, id) = (arg.get_long()?, arg.get_id().as_str());
            let raw = matches.try_get_raw(id).ok().flatten()?;
            let in_file = file.and_then(|file| file.values.get(long));
            let origin = match (matches.value_source(id)?, in_file) {
                (ValueSource::CommandLine, _) => Origin::CommandLine,
                (ValueSource::EnvVariable, _) => Origin::Environment,
                (_, Some(value)) => Origin::File(value.line),
                (_, None) => Origin::Default,
            };
            let values = raw.map(OsStr::to_owned).collect();
            Some((long.to_owned(), (values, origin)))
        };
        Self {
            values: args.filter_map(value).collect(),
            tables: file.map(|file| file.tables.clone()).unwrap_or_default(),
        }
    }

    /// Leaves a section as it was before.
    pub fn keep(&mut self, section: &str, before: &Self, command: &Command) {
        for (of, _, arg) in keys(command) {
            let Some(long) = arg.get_long().filter(|_| of == section) else {
                continue;
            };
            match before.values.get(long) {
                Some(value) => self.values.insert(long.to_owned(), value.clone()),
                None => self.values.remove(long),
            };
        }
        self.tables.retain(|(of, _), _| *of != section);
        let tables = before.tables.iter().filter(|((of, _), _)| *of == section);
        self.tables
            .extend(tables.map(|(place, tables)| (*place, tables.clone())));
    }

    /// The options that have other values than before, and the sections that they are in. Lists of tables have
    /// the name of their key.
    pub fn changed(&self, before: &Self, command: &Command) -> BTreeSet<(&'static str, String)> {
        let mut changed = BTreeSet::new();
        for (section, key, arg) in keys(command) {
            let value = |effective: &Self| {
                let value = effective.values.get(arg.get_long()?)?;
                Some(value.0.clone())
            };
            if value(self) != value(before) {
                changed.insert((section, key));
            }
        }
        for tables in TABLES {
            let place = (tables.section, tables.key);
            if self.tables.get(&place) != before.tables.get(&place) {
                changed.insert((tables.section, tables.key.to_owned()));
            }
        }
        changed
    }

    /// The whole configuration as a file, with the origin of each value.
    pub fn show(&self, command: &Command) -> String {
        let mut shown = String::new();
        let mut last = "";
        for (section, key, arg) in keys(command) {
            if section != last {
                let gap = if last.is_empty() { "" } else { "\n" };
                let _ = writeln!(shown, "{gap}[{section}]");
                last = section;
            }
            let Some((values, origin)) = arg.get_long().and_then(|long| self.values.get(long))
            else {
                let _ = writeln!(shown, "# {key} is not set");
                continue;
            };
            let values: Vec<String> = values
                .iter()
                .map(|value| match arg.is_hide_env_values_set() {
                    true => SECRET.to_owned(),
                    false => without_secrets(&value.to_string_lossy()),
                })
                .collect();
            let entry = format!("{key} = {}", literal(&arg, &values));
            let origin = match origin {
                Origin::CommandLine => "command line".to_owned(),
                Origin::Default => "default".to_owned(),
                Origin::Environment => env_name(&arg),
                Origin::File(line) => format!("line {line}"),
            };
            let _ = writeln!(shown, "{entry:<40} # {origin}");
        }
        for ((section, key), tables) in &self.tables {
            let _ = writeln!(
                shown,
                "\n# [[{section}.{key}]]: {} from the file",
                tables.len()
            );
        }
        shown
    }
}

/// A URL without the user and the query, either of which may hold a key; or what is no URL, as it is.
fn without_secrets(value: &str) -> String {
    let Some(mut url) = Url::parse(value).ok().filter(Url::has_host) else {
        return value.to_owned();
    };
    let has_user = !url.username().is_empty() || url.password().is_some();
    if !has_user && url.query().is_none() {
        return value.to_owned();
    }
    if has_user {
        // It has a host, so there is a place for them.
        let _ = (url.set_username(SECRET), url.set_password(None));
    }
    if url.query().is_some() {
        url.set_query(Some(SECRET));
    }
    url.into()
}

/// Values as TOML.
fn literal(arg: &Arg, values: &[String]) -> String {
    let one = |value: &String| {
        let is_plain = is_flag(arg)
            || value.parse::<i64>().is_ok()
            || value.contains('.') && value.parse::<f64>().is_ok_and(f64::is_finite);
        match is_plain {
            true => value.clone(),
            false => toml::Value::String(value.clone()).to_string(),
        }
    };
    if is_list(arg) {
        let values: Vec<String> = values.iter().map(one).collect();
        return format!("[{}]", values.join(", "));
    }
    values.first().map(one).unwrap_or_default()
}

fn env_name(arg: &Arg) -> String {
    arg.get_env()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn defaults(arg: &Arg) -> Vec<String> {
    if is_flag(arg) {
        return vec!["false".to_owned()];
    }
    let defaults = arg.get_default_values().iter();
    defaults
        .map(|value| value.to_string_lossy().into_owned())
        .collect()
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

/// `docs/configuration.md`: a table of every option of each section.
pub fn reference(command: &Command) -> String {
    let mut text = "<!-- Written by `cargo xtask docs` from the options themselves. -->\n\
        # Every option: key, flag and environment variable\n\n\
        What is said on the command line counts before the environment, that before the file, that before the default.\n\
        Booleans in the environment are `true` or `false`; lists are separated by commas. See [observer.toml](observer.toml)\n\
        for a file with every key.\n"
        .to_owned();
    let mut last = "";
    for (section, key, arg) in keys(command) {
        if section != last {
            let _ = write!(
                text,
                "\n## `[{section}]`\n\n| key | flag | environment | default | |\n|---|---|---|---|---|\n"
            );
            last = section;
        }
        let long = arg.get_long().unwrap_or_default();
        let flag = match is_flag(&arg) {
            true => format!("--{long}"),
            false => format!("--{long} {}", value_name(&arg)),
        };
        let default = match defaults(&arg).as_slice() {
            [] => String::new(),
            values => format!("`{}`", literal(&arg, values)),
        };
        let mut help = help(&arg).replace('|', "\\|").replace('\n', " ");
        let values = arg.get_possible_values();
        if !is_flag(&arg) && !values.is_empty() {
            let _ = write!(help, ".");
            for value in values {
                let meaning = value.get_help().map(|help| format!(": {help}"));
                let _ = write!(
                    help,
                    " `{}`{};",
                    value.get_name(),
                    meaning.unwrap_or_default()
                );
            }
            help.pop();
        }
        let _ = writeln!(
            text,
            "| `{key}` | `{flag}` | `{}` | {default} | {help} |",
            env_name(&arg)
        );
    }
    for Tables {
        section,
        key,
        example,
    } in TABLES
    {
        let _ = write!(
            text,
            "\n## `[[{section}.{key}]]`\n\n```toml\n{example}```\n"
        );
    }
    text
}

/// `docs/observer.toml`: every key, with its default where it has one.
pub fn example(command: &Command) -> String {
    let mut text = "# Written by `cargo xtask docs` from the options themselves. Every key is here, commented out: with its\n\
        # default, or with a value in capitals that stands for one where there is no default.\n"
        .to_owned();
    let mut last = "";
    for (section, key, arg) in keys(command) {
        if section != last {
            let _ = writeln!(text, "\n[{section}]");
            last = section;
        }
        let values = match defaults(&arg) {
            values if values.is_empty() && !is_list(&arg) => vec![value_name(&arg)],
            values => values,
        };
        let _ = writeln!(text);
        for line in help(&arg).lines() {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "#{key} = {}", literal(&arg, &values));
    }
    for Tables {
        section,
        key,
        example,
    } in TABLES
    {
        let _ = writeln!(text, "\n# [[{section}.{key}]]");
        for line in example.lines() {
            let _ = writeln!(text, "# {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::{Parser, Subcommand, ValueEnum};
    use tempfile::NamedTempFile;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Sub,
    }

    #[derive(Debug, Subcommand)]
    enum Sub {
        /// Watches.
        Watch(Box<Watch>),
    }

    #[derive(Debug, clap::Args)]
    struct Watch {
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long, env = "OBSERVER_TEST_PLAINTEXT", help_heading = "Watching")]
        plaintext: bool,
        #[arg(long, conflicts_with = "plaintext", help_heading = "Watching")]
        no_plaintext: bool,
        /// How long
        #[arg(
            long,
            value_name = "SECONDS",
            default_value_t = 10,
            env = "OBSERVER_TEST_TRACE_IDLE"
        )]
        trace_idle: u32,
        #[arg(long, default_value = "auto")]
        trace_by: By,
        #[arg(long, value_delimiter = ',', help_heading = "Records")]
        provider: Vec<String>,
        #[arg(
            long,
            value_name = "TOKEN",
            hide_env_values = true,
            env = "OBSERVER_TEST_TOKEN"
        )]
        otlp_token: Option<u64>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
    enum By {
        Auto,
        Thread,
    }

    fn file(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn load_with(text: &str, args: &[&str]) -> Result<Loaded<Cli>, Failure> {
        let file = file(text);
        let mut line: Vec<OsString> = vec!["observer".into(), "watch".into(), "--config".into()];
        line.push(file.path().into());
        line.extend(args.iter().map(OsString::from));
        load(&line)
    }

    fn watch(text: &str, args: &[&str]) -> Box<Watch> {
        let Sub::Watch(watch) = load_with(text, args).unwrap().options.command;
        watch
    }

    fn problems(text: &str) -> Vec<String> {
        let Err(Failure::File(error)) = load_with(text, &[]) else {
            panic!("{text} is valid");
        };
        let error = error.to_string();
        // Without the path.
        let short = |line: &str| line.split_once(':').map(|(_, rest)| rest.to_owned());
        error.lines().filter_map(short).collect()
    }

    #[test]
    fn a_file_sets_what_the_command_line_does_not() {
        let text = "[watch]\nplaintext = true\n[records]\nprovider = ['openai', \"xai\"]\n\
            [trace]\nidle = 3\nby = 'thread'\n";
        let set = watch(text, &[]);
        assert!(set.plaintext && !set.no_plaintext);
        assert_eq!(set.provider, ["openai", "xai"]);
        assert_eq!((set.trace_idle, set.trace_by), (3, By::Thread));
        let set = watch(
            text,
            &["--trace-idle", "4", "--provider=google", "--no-plaintext"],
        );
        assert_eq!((set.trace_idle, set.trace_by), (4, By::Thread));
        assert_eq!(set.provider, ["google"]);
        assert!(!set.plaintext && set.no_plaintext);
        let unset = watch("", &[]);
        assert!(!unset.plaintext && unset.provider.is_empty());
        assert_eq!((unset.trace_idle, unset.trace_by), (10, By::Auto));
    }

    #[test]
    fn every_problem_has_its_place_and_says_what_is_expected() {
        assert_eq!(
            problems("[trace]\nidel = 3\nby = 'fred'\n  idle = 'soon'\n"),
            [
                "2:1: trace.idel: there is no such key; is idle meant?",
                "3:6: trace.by: one of auto, thread is expected, not \"fred\"",
                "4:10: trace.idle: SECONDS is expected: invalid digit found in string, not \"soon\"",
            ]
        );
        assert_eq!(
            problems(
                "[records]\nprovider = ['a', 1979-05-27]\n[watch]\nplaintext = 'yes'\nidle = 1\n[tracing]\n"
            ),
            [
                "2:18: records.provider: a list of PROVIDER is expected, not a value of type datetime",
                "4:13: watch.plaintext: true or false is expected, not a value of type string",
                "5:1: watch.idle: there is no such key; idle belongs to [trace]",
                "6:2: tracing: there is no such section; is trace meant?",
            ]
        );
        assert_eq!(
            problems("trace = 1\n[watch]\nplaintext = true\nno_plaintext = true"),
            [
                "1:9: trace: it is a section: [trace]",
                "4:1: no_plaintext and plaintext exclude each other",
            ]
        );
        let broken = problems("[trace]\nidle = \n");
        assert!(broken[0].starts_with("2:"), "{broken:?}");
    }

    #[test]
    fn no_problem_shows_a_secret() {
        let text = "[export.otlp]\ntoken = \"hunter2\"\n";
        assert_eq!(problems(text), ["2:9: export.otlp.token: it is no TOKEN"]);
        let text = "[export.otlp]\ntoken = 271828\n";
        let loaded = load_with(text, &[]).unwrap();
        let shown = loaded.effective.show(&Cli::command());
        assert!(shown.contains("token = \"***\""), "{shown}");
        assert!(!shown.contains("271828"), "{shown}");
        let Err(Failure::Usage(error)) = load_with("", &["--otlp-token", "hunter2"]) else {
            panic!("hunter2 is no number");
        };
        let error = error.to_string();
        assert!(error.contains("'***' for '--otlp-token"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        for (value, shown) in [
            ("https://me:hunter2@host:1/p", "https://***@host:1/p"),
            ("https://hunter2@host/", "https://***@host/"),
            ("http://host/p?key=hunter2", "http://host/p?***"),
            ("http://host:4318", "http://host:4318"),
            ("host:4317", "host:4317"),
            ("127.0.0.1:9464", "127.0.0.1:9464"),
        ] {
            assert_eq!(without_secrets(value), shown);
        }
    }

    #[test]
    fn what_holds_is_shown_with_its_origin() {
        let text = "[trace]\nby = 'thread'\n";
        let loaded = load_with(text, &["--provider", "xai"]).unwrap();
        let shown = loaded.effective.show(&Cli::command());
        let lines: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split(" #").map(str::trim).collect())
            .collect();
        assert!(
            lines.contains(&vec!["by = \"thread\"", "line 2"]),
            "{shown}"
        );
        assert!(lines.contains(&vec!["idle = 10", "default"]), "{shown}");
        assert!(
            lines.contains(&vec!["provider = [\"xai\"]", "command line"]),
            "{shown}"
        );
        // It is a file, too.
        assert!(DeTable::parse(&shown).is_ok(), "{shown}");
    }

    #[test]
    fn changes_are_found_by_section() {
        let before = load_with("[trace]\nidle = 3\n", &[]).unwrap().effective;
        let after = load_with("# moved\n[trace]\nidle = 3\nby = 'thread'\n", &[]).unwrap();
        let changed = after.effective.changed(&before, &Cli::command());
        assert_eq!(changed, BTreeSet::from([("trace", "by".to_owned())]));
    }

    #[test]
    fn a_file_that_is_not_there_is_a_problem_only_if_it_is_named() {
        let args = ["observer", "watch", "--config", "/nonexistent/x.toml"].map(OsString::from);
        let Err(failure) = load::<Cli>(&args) else {
            panic!("there is no such file");
        };
        assert!(
            failure
                .to_string()
                .starts_with("cannot read /nonexistent/x.toml: ")
        );
    }
}
