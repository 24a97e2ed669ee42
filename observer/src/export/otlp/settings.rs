//! What the options and the standard variables say, for each signal.
//!
//! Sources: OpenTelemetry specification 1.5x, "OpenTelemetry Protocol Exporter" and "Environment Variable
//! Specification".

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use reqwest::Url;
use tracing::warn;

use super::Options;
use crate::export::queue;

/// How long a batch is tried for, unless `OTEL_BSP_EXPORT_TIMEOUT` says otherwise: a collector that is updated or
/// moves to another node is away for minutes.
const LONGEST: Duration = Duration::from_secs(300);

/// In seconds: the longest of the times that are options.
const DAY: f64 = 86_400.0;

/// After [`queue::FINISH`] nobody waits for the exporter, which has to say what it has not delivered.
const LONGEST_FLUSH: Duration = queue::FINISH.saturating_sub(Duration::from_secs(1));

/// What carries OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// gRPC, usually at port 4317.
    Grpc,
    /// Protobuf over HTTP, usually at port 4318.
    #[value(name = "http/protobuf")]
    HttpProtobuf,
}

/// How requests are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// By gzip.
    Gzip,
    /// Not at all.
    None,
}

/// Which names attributes and metrics have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Semconv {
    /// Those of the semantic conventions 1.41.
    #[default]
    #[value(name = "1.41")]
    V1_41,
    /// Those of the GenAI conventions after they got a repository of their own.
    Latest,
}

/// Whether metrics tell of all since their begin, or of what has been added since they were last delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Temporality {
    /// All.
    #[default]
    Cumulative,
    /// What has been added.
    Delta,
    /// What has been added, but for counters that are kept elsewhere anyway: those of the agent itself.
    LowMemory,
}

/// Header fields as they are given, and valid. They may be keys, so they are not printed, nor is what is none.
#[derive(Clone)]
pub struct Fields(String);

/// A header field. Its value is not printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

/// Where one signal goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: Url,
    pub(super) protocol: Protocol,
    pub(super) headers: Vec<Header>,
    pub(super) gzip: bool,
    /// For each request.
    pub(super) timeout: Duration,
    pub(super) tls: Tls,
}

/// Files in PEM.
#[derive(Clone, Default)]
pub(super) struct Tls {
    pub(super) ca: Option<Vec<u8>>,
    /// Certificate and key.
    pub(super) client: Option<(Vec<u8>, Vec<u8>)>,
}

/// All that the exporter has to know.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) traces: Option<Target>,
    pub(super) metrics: Option<Target>,
    pub(super) batch: Batch,
    /// How often metrics are sent.
    pub(super) interval: Duration,
    pub(super) semconv: Semconv,
    pub(super) temporality: Temporality,
    /// For all that is left at the end.
    pub(super) flush: Duration,
    /// `OTEL_SERVICE_NAME`, or what `OTEL_RESOURCE_ATTRIBUTES` says.
    pub(super) service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES` without the name of the service, and what is known of the node.
    pub(super) attributes: Vec<(String, String)>,
}

/// How spans are put together: the variables `OTEL_BSP_…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) delay: Duration,
    /// Spans in a request.
    pub(super) size: usize,
    /// Spans that may wait.
    pub(super) queue: usize,
    /// How long a batch is tried for.
    pub(super) patience: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(5),
            size: 512,
            queue: 2_048,
            patience: LONGEST,
        }
    }
}

impl Temporality {
    /// Of what is counted here.
    pub(super) const fn is_delta(self) -> bool {
        matches!(self, Self::Delta | Self::LowMemory)
    }

    fn read(variables: &Variables<'_>) -> Self {
        const NAME: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let given = variables.get(NAME).unwrap_or_default();
        match given.trim().to_ascii_lowercase().as_str() {
            "" | "cumulative" => Self::Cumulative,
            "delta" => Self::Delta,
            "lowmemory" => Self::LowMemory,
            _ => {
                warn!("{NAME} is none of cumulative, delta and lowmemory, and is ignored");
                Self::Cumulative
            }
        }
    }
}

impl Signal {
    const fn variable(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }
}

impl FromStr for Fields {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        set(&mut Vec::new(), text).map_err(|error| format!("{error:#}"))?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Header {
    /// Messages name no value: it may be a key.
    fn new(name: &str, value: &str) -> Result<Self, String> {
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err("the name of a header field is none".to_owned());
        }
        if reqwest::header::HeaderValue::from_str(value).is_err() || !value.is_ascii() {
            return Err(format!("the value of the header field {name} is none"));
        }
        Ok(Self {
            name,
            value: value.to_owned(),
        })
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("client", &self.client.is_some())
            .finish()
    }
}

impl Target {
    /// Where it is, without what may be secret.
    pub(super) fn place(&self) -> String {
        let mut url = self.url.clone();
        let _ = (url.set_password(None), url.set_username(""));
        url.set_query(None);
        url.to_string()
    }
}

impl Settings {
    /// By the options and `variable`; `None` if nobody asks for OTLP.
    pub(super) fn read(
        options: &Options,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Option<Self>> {
        let variables = Variables(variable);
        if variables.flag("OTEL_SDK_DISABLED") {
            return Ok(None);
        }
        let traces = target(Signal::Traces, options, &variables)?;
        let metrics = target(Signal::Metrics, options, &variables)?;
        if traces.is_none() && metrics.is_none() {
            return Ok(None);
        }
        if metrics.is_some() {
            const NAME: &str = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
            const ONLY: &str = "explicit_bucket_histogram";
            let given = variables.get(NAME);
            if given.is_some_and(|given| !given.trim().eq_ignore_ascii_case(ONLY)) {
                warn!("{NAME} is ignored: histograms are sent as {ONLY}");
            }
        }
        if let Some(tls) = [&traces, &metrics]
            .into_iter()
            .flatten()
            .find(|target| target.url.port() == Some(4317) && target.protocol != Protocol::Grpc)
        {
            warn!(
                endpoint = tls.place(),
                "port 4317 is usually that of gRPC, and OTLP goes there over HTTP: see --otlp-protocol"
            );
        }
        let defaults = Batch::default();
        const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let attributes = variables.get(ATTRIBUTES).unwrap_or_default();
        let mut attributes = pairs(&attributes).context(ATTRIBUTES)?;
        let named = attributes
            .iter()
            .position(|(name, _)| name == "service.name")
            .map(|at| attributes.remove(at).1);
        // In a pod the system's own name is the pod's.
        for (name, value) in [
            ("host.name", &options.node),
            ("k8s.node.name", &options.node),
            ("k8s.cluster.name", &options.cluster),
        ] {
            if let Some(value) = value
                && attributes.iter().all(|(known, _)| known != name)
            {
                attributes.push((name.to_owned(), value.clone()));
            }
        }
        let queue = variables
            .count("OTEL_BSP_MAX_QUEUE_SIZE")
            .unwrap_or(defaults.queue);
        Ok(Some(Self {
            traces,
            metrics,
            batch: Batch {
                delay: variables
                    .milliseconds("OTEL_BSP_SCHEDULE_DELAY")
                    .unwrap_or(defaults.delay),
                size: variables
                    .count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE")
                    .unwrap_or(defaults.size)
                    .min(queue),
                queue,
                patience: variables
                    .milliseconds("OTEL_BSP_EXPORT_TIMEOUT")
                    .unwrap_or(defaults.patience),
            },
            interval: variables
                .milliseconds("OTEL_METRIC_EXPORT_INTERVAL")
                .unwrap_or(Duration::from_secs(60))
                .max(Duration::from_millis(10)),
            semconv: options.semconv,
            temporality: Temporality::read(&variables),
            flush: Duration::from_secs_f64(options.flush_timeout.unwrap_or(5.0)).min(LONGEST_FLUSH),
            service_name: variables.get("OTEL_SERVICE_NAME").or(named),
            attributes,
        }))
    }
}

fn target(
    signal: Signal,
    options: &Options,
    variables: &Variables<'_>,
) -> anyhow::Result<Option<Target>> {
    let exporters = variables.get(&format!("OTEL_{}_EXPORTER", signal.variable()));
    let exporters = exporters.unwrap_or_default();
    if exporters.trim().eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let asked = exporters
        .split(',')
        .any(|name| name.trim().eq_ignore_ascii_case("otlp"));
    let own = variables.get(&name_of(signal, "ENDPOINT"));
    let general = variables.get("OTEL_EXPORTER_OTLP_ENDPOINT");
    if options.endpoint.is_none() && own.is_none() && general.is_none() && !asked {
        return Ok(None);
    }
    let protocol = match options.protocol {
        Some(protocol) => protocol,
        None => match variables.of(signal, "PROTOCOL").as_deref() {
            None | Some("http/protobuf") => Protocol::HttpProtobuf,
            Some("grpc") => Protocol::Grpc,
            Some(other) => bail!("OTLP goes over grpc or http/protobuf, not over {other:?}"),
        },
    };
    let insecure = options.insecure
        || variables
            .of(signal, "INSECURE")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let url = match (&options.endpoint, own) {
        (Some(given), _) => general_url(given, signal, protocol, insecure)?,
        (None, Some(own)) => parse(&own, protocol, insecure)?,
        (None, None) => {
            let default = match protocol {
                Protocol::Grpc => "http://localhost:4317",
                Protocol::HttpProtobuf => "http://localhost:4318",
            };
            general_url(
                general.as_deref().unwrap_or(default),
                signal,
                protocol,
                insecure,
            )?
        }
    };
    let compression = match options.compression {
        Some(compression) => compression,
        None => match variables.of(signal, "COMPRESSION").as_deref() {
            Some("gzip") => Compression::Gzip,
            None | Some("none") => Compression::None,
            Some(other) => bail!("OTLP is compressed by gzip or none, not by {other:?}"),
        },
    };
    let mut headers = Vec::new();
    let names = [&*name_of(signal, "HEADERS"), "OTEL_EXPORTER_OTLP_HEADERS"];
    let mut given = names
        .into_iter()
        .filter_map(|name| Some((name, variables.get(name)?)));
    if let Some((name, text)) = given.next() {
        set(&mut headers, &text).with_context(|| name.to_owned())?;
    }
    for Fields(text) in &options.header {
        set(&mut headers, text)?;
    }
    let timeout = match options.timeout {
        Some(given) => Duration::from_secs_f64(given),
        None => variables
            .of(signal, "TIMEOUT")
            .and_then(|text| number("OTEL_EXPORTER_OTLP_TIMEOUT", &text))
            .map_or(Duration::from_secs(10), Duration::from_millis),
    };
    let file = |option: &Option<PathBuf>, name: &str| -> anyhow::Result<Option<Vec<u8>>> {
        let path = option
            .clone()
            .or_else(|| variables.of(signal, name).map(PathBuf::from));
        path.map(|path| read(&path)).transpose()
    };
    let client = (
        file(&options.client_certificate, "CLIENT_CERTIFICATE")?,
        file(&options.client_key, "CLIENT_KEY")?,
    );
    let tls = Tls {
        ca: file(&options.certificate, "CERTIFICATE")?,
        client: match client {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => bail!("OTLP: a client's certificate needs its key, and the key its certificate"),
        },
    };
    Ok(Some(Target {
        url,
        protocol,
        headers,
        gzip: compression == Compression::Gzip,
        timeout,
        tls,
    }))
}

/// Of an endpoint for all signals: only here the path of the signal is appended, and over gRPC there is none.
fn general_url(
    text: &str,
    signal: Signal,
    protocol: Protocol,
    insecure: bool,
) -> anyhow::Result<Url> {
    let mut url = parse(text, protocol, insecure)?;
    if protocol == Protocol::HttpProtobuf {
        let path = format!("{}/{}", url.path().trim_end_matches('/'), signal.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn parse(text: &str, protocol: Protocol, insecure: bool) -> anyhow::Result<Url> {
    let text = text.trim();
    // Without a scheme, which gRPC's endpoints need not have, `insecure` decides.
    let url = if text.contains("://") {
        Url::parse(text)
    } else if protocol == Protocol::Grpc {
        let scheme = if insecure { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{text}"))
    } else {
        bail!("an OTLP endpoint over HTTP begins with http:// or https://");
    };
    // The text may hold a password.
    let url = url.context("the OTLP endpoint is no URL")?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        bail!("an OTLP endpoint begins with http:// or https:// and names a host");
    }
    Ok(url)
}

fn name_of(signal: Signal, name: &str) -> String {
    format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.variable())
}

/// Adds header fields.
fn set(headers: &mut Vec<Header>, text: &str) -> anyhow::Result<()> {
    for (field, value) in pairs(text)? {
        let header = Header::new(&field, &value).map_err(anyhow::Error::msg)?;
        headers.retain(|other| other.name != header.name);
        headers.push(header);
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("OTLP: cannot read {}", path.display()))
}

/// A time that is waited for, in seconds.
pub(super) fn positive_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=DAY).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds, at least 0.001 and at most a day".to_owned()),
    }
}

/// A time that may be none, in seconds.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=DAY).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds, not negative and at most a day".to_owned()),
    }
}

/// Invalid numbers are ignored with a warning, as the specification has it.
fn number(name: &str, text: &str) -> Option<u64> {
    let number = text.trim().parse().ok().filter(|number| *number > 0);
    if number.is_none() {
        warn!("{name} is no positive number and is ignored");
    }
    number
}

/// The environment. An empty variable is one that is not set.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    /// For the signal, else for all.
    fn of(&self, signal: Signal, name: &str) -> Option<String> {
        self.get(&name_of(signal, name))
            .or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{name}")))
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    fn count(&self, name: &str) -> Option<usize> {
        self.get(name)
            .and_then(|text| number(name, &text))
            .and_then(|number| usize::try_from(number).ok())
            .map(|number| number.min(1 << 20))
    }

    fn milliseconds(&self, name: &str) -> Option<Duration> {
        self.get(name)
            .and_then(|text| number(name, &text))
            .map(|milliseconds| Duration::from_millis(milliseconds.min(86_400_000)))
    }
}

/// `a=b,c=d`, percent-encoded, as W3C Baggage has it without properties. Messages show nothing of it.
fn pairs(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    text.split(',')
        .filter(|pair| !pair.trim().is_empty())
        .map(|pair| {
            let (key, value) = pair
                .split_once('=')
                .context("it has a part that is not NAME=VALUE")?;
            Ok((decoded(key.trim()), decoded(value.trim())))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes
            .get(at + 1..at + 3)
            .filter(|digits| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match digits {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn settings(options: &Options, variables: &[(&str, &str)]) -> anyhow::Result<Option<Settings>> {
        Settings::read(options, &|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn urls(options: &Options, variables: &[(&str, &str)]) -> [Option<String>; 2] {
        let settings = settings(options, variables).unwrap();
        let url = |target: Option<Target>| target.map(|target| target.url.to_string());
        settings.map_or([None, None], |settings| {
            [url(settings.traces), url(settings.metrics)]
        })
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn nobody_asks_for_it() {
        assert_eq!(urls(&Options::default(), &[]), [None, None]);
        let empty = [("OTEL_EXPORTER_OTLP_ENDPOINT", "")];
        assert_eq!(urls(&Options::default(), &empty), [None, None]);
        let disabled = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"),
            ("OTEL_SDK_DISABLED", "true"),
        ];
        assert_eq!(urls(&Options::default(), &disabled), [None, None]);
    }

    #[test]
    fn paths_are_appended_to_the_general_endpoint_only() {
        let none = Options::default();
        for general in ["http://c:1/x", "http://c:1/x/"] {
            assert_eq!(
                urls(
                    &none,
                    &[
                        ("OTEL_EXPORTER_OTLP_ENDPOINT", general),
                        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://m:2/own?a=b"),
                    ]
                ),
                [some("http://c:1/x/v1/traces"), some("https://m:2/own?a=b")]
            );
        }
        // Its own endpoint asks for one signal only; without a path the root is meant.
        assert_eq!(
            urls(
                &none,
                &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:3")]
            ),
            [some("http://t:3/"), None]
        );
        assert_eq!(
            urls(
                &none,
                &[
                    ("OTEL_TRACES_EXPORTER", "otlp"),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
                ]
            ),
            [some("http://localhost:4317/"), None]
        );
    }

    #[test]
    fn options_override_variables() {
        let options = Options {
            endpoint: some("http://o:1"),
            ..Options::default()
        };
        assert_eq!(
            urls(
                &options,
                &[
                    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:3/own"),
                    ("OTEL_METRICS_EXPORTER", "none"),
                ]
            ),
            [some("http://o:1/v1/traces"), None]
        );
    }

    #[test]
    fn insecure_decides_where_there_is_no_scheme() {
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317");
        let none = Options::default();
        assert_eq!(urls(&none, &[grpc, endpoint])[0], some("https://c:4317/"));
        let insecure = ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "True");
        assert_eq!(
            urls(&none, &[grpc, endpoint, insecure]),
            [some("http://c:4317/"), some("https://c:4317/")]
        );
        assert!(settings(&none, &[endpoint]).is_err());
    }

    #[test]
    fn headers_are_decoded_and_replaced_by_name() {
        let options = Options {
            header: vec![
                "X-Key=of=option, x-second=2%2C".parse().unwrap(),
                "x-third=3".parse().unwrap(),
            ],
            ..Options::default()
        };
        let read = settings(
            &options,
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a, other=b%20c%2C"),
                ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "m=1"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=s,k=v%3D"),
                ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
                ("OTEL_BSP_SCHEDULE_DELAY", "nothing"),
            ],
        )
        .unwrap()
        .unwrap();
        let fields = |target: &Option<Target>| -> Vec<String> {
            let headers = &target.as_ref().unwrap().headers;
            headers
                .iter()
                .map(|header| format!("{}={}", header.name, header.value))
                .collect()
        };
        assert_eq!(
            fields(&read.traces),
            ["other=b c,", "x-key=of=option", "x-second=2,", "x-third=3"]
        );
        assert_eq!(
            fields(&read.metrics),
            ["m=1", "x-key=of=option", "x-second=2,", "x-third=3"]
        );
        assert_eq!(read.service_name.as_deref(), Some("s"));
        assert_eq!(read.attributes, [("k".to_owned(), "v=".to_owned())]);
        assert_eq!((read.batch.queue, read.batch.size), (10, 10));
        assert_eq!(read.batch.delay, Duration::from_secs(5));
        assert!(!format!("{read:?}{options:?}").contains("=option"));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let with = |variable| {
            let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
            settings(&Options::default(), &[endpoint, variable])
                .unwrap_err()
                .to_string()
        };
        assert!(with(("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")).contains("http/json"));
        assert!(with(("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere")).contains("/nowhere"));
        assert!(with(("OTEL_EXPORTER_OTLP_COMPRESSION", "zip")).contains("zip"));
        let secret = with(("OTEL_EXPORTER_OTLP_HEADERS", "key=secret\u{1}"));
        assert!(!secret.contains("secret"), "{secret}");
    }

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn parsed(arguments: &[&str]) -> Result<Options, clap::Error> {
        let arguments = ["x"].iter().chain(arguments);
        Command::try_parse_from(arguments).map(|command| command.options)
    }

    #[test]
    fn no_message_shows_a_key() {
        for header in ["x-api-key: SECRET", "x-api-key=SECRET\u{1}", "SECRET key=v"] {
            let error = header.parse::<Fields>().unwrap_err();
            assert!(!error.contains("SECRET"), "{error}");
        }
        let options = parsed(&["--otlp-header", "x-api-key=SECRET"]).unwrap();
        assert!(!format!("{options:?}").contains("SECRET"));
    }

    #[test]
    fn an_answer_is_waited_for_and_the_end_need_not_be() {
        let refused = |option: &str, value| {
            let error = parsed(&[option, value]).err();
            error.is_some_and(|error| error.to_string().contains("a number of seconds"))
        };
        for value in ["0", "0.0", "1e-9", "nan", "inf", "86401", "soon"] {
            assert!(refused("--otlp-timeout", value), "{value}");
        }
        for value in ["nan", "inf", "86401"] {
            assert!(refused("--otlp-flush-timeout", value), "{value}");
        }
        let options = parsed(&["--otlp-timeout", "0.5", "--otlp-flush-timeout", "0"]).unwrap();
        let asked = [("OTEL_TRACES_EXPORTER", "otlp")];
        let read = settings(&options, &asked).unwrap().unwrap();
        assert_eq!(read.traces.unwrap().timeout, Duration::from_millis(500));
        assert_eq!(read.flush, Duration::ZERO);
    }

    #[test]
    fn temporality_is_as_asked_for() {
        for (given, expected) in [
            ("", Temporality::Cumulative),
            ("Delta", Temporality::Delta),
            ("LOWMEMORY", Temporality::LowMemory),
            ("cumulative", Temporality::Cumulative),
            ("sometimes", Temporality::Cumulative),
        ] {
            let variables = [
                ("OTEL_METRICS_EXPORTER", "otlp"),
                ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", given),
            ];
            let read = settings(&Options::default(), &variables).unwrap().unwrap();
            assert_eq!(read.temporality, expected, "{given}");
        }
    }
}
