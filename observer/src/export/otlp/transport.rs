//! Requests of OTLP, over gRPC and over HTTP, and what their answers ask for.
//!
//! Source: OpenTelemetry Protocol specification 1.10.

use std::{
    error::Error,
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use jiff::fmt::rfc2822;
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_client::MetricsServiceClient,
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_client::TraceServiceClient,
    },
};
use prost::Message as _;
use reqwest::{
    StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use tonic::{
    Code,
    codec::CompressionEncoding,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::settings::{Protocol, Target, Tls};

/// An answer says little; whatever else comes is not read.
const LONGEST_ANSWER: usize = 64 * 1024;

/// A server may ask for no longer pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

const USER_AGENT: &str = concat!("observer/", env!("CARGO_PKG_VERSION"));

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Taken, but for so many; and what the server says about them.
    Taken(u64, String),
    /// It may be tried again, after the time that the server asks for.
    Again(Option<Duration>, String),
    /// It is of no use to try again.
    Refused(String),
}

/// A way to one endpoint.
pub(super) struct Transport {
    target: Target,
    way: Way,
}

enum Way {
    Grpc(Channel),
    Http(reqwest::Client),
}

impl Transport {
    /// Prepares it; nothing is connected. In the context of a runtime.
    pub(super) fn new(target: Target) -> anyhow::Result<Self> {
        let way = match target.protocol {
            Protocol::Grpc => Way::Grpc(channel(&target)?),
            Protocol::HttpProtobuf => Way::Http(client(&target)?),
        };
        Ok(Self { target, way })
    }

    /// Where it leads, for messages.
    pub(super) fn place(&self) -> String {
        self.target.place()
    }

    /// Sends a request once.
    pub(super) async fn send(&self, payload: &Payload) -> Outcome {
        let answer = async {
            match &self.way {
                Way::Grpc(channel) => self.call(channel.clone(), payload.clone()).await,
                Way::Http(client) => self.post(client, payload).await,
            }
        };
        match tokio::time::timeout(self.target.timeout, answer).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Again(None, format!("no answer within {:?}", self.target.timeout)),
        }
    }

    async fn call(&self, channel: Channel, payload: Payload) -> Outcome {
        macro_rules! export {
            ($client:ident, $message:ident) => {{
                let mut client = $client::new(channel).accept_compressed(CompressionEncoding::Gzip);
                if self.target.gzip {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                let mut request = tonic::Request::new($message);
                *request.metadata_mut() = MetadataMap::from_headers(self.headers());
                request.set_timeout(self.target.timeout);
                client.export(request).await
            }};
        }
        match payload {
            Payload::Traces(message) => match export!(TraceServiceClient, message) {
                Ok(answer) => traces_taken(answer.into_inner()),
                Err(status) => judged(&status),
            },
            Payload::Metrics(message) => match export!(MetricsServiceClient, message) {
                Ok(answer) => metrics_taken(answer.into_inner()),
                Err(status) => judged(&status),
            },
        }
    }

    async fn post(&self, client: &reqwest::Client, payload: &Payload) -> Outcome {
        let message = match payload {
            Payload::Traces(message) => message.encode_to_vec(),
            Payload::Metrics(message) => message.encode_to_vec(),
        };
        let mut headers = self.headers();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        let body = if self.target.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            match compressed(&message) {
                Ok(body) => body,
                Err(error) => return Outcome::Refused(error.to_string()),
            }
        } else {
            message
        };
        let request = client
            .post(self.target.url.clone())
            .headers(headers)
            .body(body);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => return Outcome::Refused(causes(&error)),
            Err(error) => return Outcome::Again(None, causes(&error.without_url())),
        };
        let status = response.status();
        let pause = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let mut answer = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if answer.len() + chunk.len() <= LONGEST_ANSWER => {
                    answer.extend_from_slice(&chunk);
                }
                Ok(None) => break,
                // The status says what is to be known.
                Ok(Some(_)) | Err(_) => {
                    answer.clear();
                    break;
                }
            }
        }
        if status.is_success() {
            // An answer that is no message says nothing of a part that was refused.
            return match payload {
                Payload::Traces(_) => {
                    traces_taken(ExportTraceServiceResponse::decode(&*answer).unwrap_or_default())
                }
                Payload::Metrics(_) => metrics_taken(
                    ExportMetricsServiceResponse::decode(&*answer).unwrap_or_default(),
                ),
            };
        }
        let mut why = format!("HTTP status {}", status.as_u16());
        if let Ok(RpcStatus { message, .. }) = RpcStatus::decode(&*answer)
            && !message.is_empty()
        {
            let _ = write!(why, ": {}", clipped(&message));
        }
        match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Outcome::Again(pause, why),
            _ => Outcome::Refused(why),
        }
    }

    fn headers(&self) -> HeaderMap {
        let fields = self.target.headers.iter().filter_map(|header| {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(&header.value).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        fields.collect()
    }
}

fn channel(target: &Target) -> anyhow::Result<Channel> {
    let url = &target.url;
    // gRPC has paths of its own.
    let origin = url.origin().ascii_serialization();
    let mut endpoint = Endpoint::from_shared(origin)
        .context("the OTLP endpoint is no URL")?
        .user_agent(USER_AGENT)?
        .connect_timeout(target.timeout);
    if url.scheme() == "https" {
        let mut tls = ClientTlsConfig::new();
        tls = match &target.tls.ca {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &target.tls.client {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        endpoint = endpoint
            .tls_config(tls)
            .context("OTLP: the certificates or the key cannot be used")?;
    }
    Ok(endpoint.connect_lazy())
}

fn client(target: &Target) -> anyhow::Result<reqwest::Client> {
    // Of all that links rustls here, reqwest alone asks for the default. It is ring's anyway if it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Tls { ca, client } = &target.tls;
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(target.timeout)
        // Keys in header fields are for this server.
        .redirect(Policy::none());
    if let Some(pem) = ca {
        let certificates = reqwest::Certificate::from_pem_bundle(pem)
            .context("OTLP: the CA's certificates cannot be used")?;
        builder = builder.tls_certs_only(certificates);
    }
    if let Some((certificate, key)) = client {
        let both = [certificate.as_slice(), b"\n", key].concat();
        let identity = reqwest::Identity::from_pem(&both)
            .context("OTLP: the client's certificate or key cannot be used")?;
        builder = builder.identity(identity);
    }
    builder.build().context("OTLP: no client for HTTP")
}

fn compressed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn traces_taken(answer: ExportTraceServiceResponse) -> Outcome {
    let part = answer.partial_success.unwrap_or_default();
    taken(part.rejected_spans, &part.error_message)
}

fn metrics_taken(answer: ExportMetricsServiceResponse) -> Outcome {
    let part = answer.partial_success.unwrap_or_default();
    taken(part.rejected_data_points, &part.error_message)
}

fn taken(rejected: i64, message: &str) -> Outcome {
    Outcome::Taken(u64::try_from(rejected).unwrap_or(0), clipped(message))
}

/// The specification's table of codes that may be tried again.
fn judged(status: &tonic::Status) -> Outcome {
    let mut why = format!("gRPC status {:?}", status.code());
    if !status.message().is_empty() {
        let _ = write!(why, ": {}", clipped(status.message()));
    }
    if let Some(source) = status.source() {
        let _ = write!(why, ": {}", clipped(&causes(source)));
    }
    let pause = retry_info(status.details());
    match status.code() {
        Code::Aborted
        | Code::Cancelled
        | Code::DataLoss
        | Code::DeadlineExceeded
        | Code::OutOfRange
        | Code::Unavailable => Outcome::Again(pause, why),
        // Only then it is known that there will be room.
        Code::ResourceExhausted if pause.is_some() => Outcome::Again(pause, why),
        // Not the server's word: the connection broke before there was an answer, or the stream was reset.
        Code::Internal | Code::ResourceExhausted | Code::Unknown if status.source().is_some() => {
            Outcome::Again(pause, why)
        }
        _ => Outcome::Refused(why),
    }
}

fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay;
    let delay = delay.unwrap_or_default();
    let whole = Duration::from_secs(u64::try_from(delay.seconds).ok()?);
    let pause = whole.saturating_add(Duration::from_nanos(u64::try_from(delay.nanos).ok()?));
    Some(pause.min(LONGEST_PAUSE))
}

/// Seconds or a date (RFC 9110, 10.2.3).
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let parser = rfc2822::DateTimeParser::new().relaxed_weekday(true);
            let date = parser.parse_timestamp(text).ok()?;
            let pause = date.duration_since(jiff::Timestamp::now());
            Duration::try_from(pause).unwrap_or(Duration::ZERO)
        }
    };
    Some(pause.min(LONGEST_PAUSE))
}

fn clipped(text: &str) -> String {
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(200)
        .collect()
}

fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let says = next.to_string();
        if !text.contains(&says) {
            let _ = write!(text, ": {says}");
        }
        cause = next.source();
    }
    text
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RpcDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
        thread,
    };

    use tokio::runtime;

    use super::*;

    /// A frame of HTTP/2.
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
        [&head[..], payload].concat()
    }

    /// Waits for the end of the first request.
    fn take_request(stream: &mut TcpStream) {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).unwrap();
            let [_, high, low, kind, flags, ..] = head;
            let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
            stream.read_exact(&mut payload).unwrap();
            let is_end_of_data = kind == 0 && flags & 1 == 1;
            if is_end_of_data {
                return;
            }
        }
    }

    fn target(port: u16, protocol: Protocol) -> Target {
        Target {
            url: format!("http://127.0.0.1:{port}").parse().unwrap(),
            protocol,
            headers: Vec::new(),
            gzip: false,
            timeout: Duration::from_secs(10),
            tls: Tls::default(),
        }
    }

    #[test]
    fn a_connection_that_breaks_is_no_refusal() {
        let go_away = |reason| frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, reason]);
        let reset = |reason| frame(3, 0, 1, &[0, 0, 0, reason]);
        // A head (status 200), an empty message, and `grpc-status` in the trailer.
        let status = |status| {
            [
                frame(1, 4, 1, b"\x88\x00\x0ccontent-type\x10application/grpc"),
                frame(0, 0, 1, &[0; 5]),
                frame(1, 5, 1, &[&b"\x00\x0bgrpc-status"[..], status].concat()),
            ]
            .concat()
        };
        let answers = [
            // Not a word: killed, say.
            Vec::new(),
            // NO_ERROR, ENHANCE_YOUR_CALM.
            go_away(0x0),
            go_away(0xb),
            // INTERNAL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM.
            reset(0x2),
            reset(0x7),
            reset(0xb),
            status(&b"\x010"[..]),
            // INTERNAL, by the server's word.
            status(&b"\x0213"[..]),
        ];
        let tries = answers.len();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                take_request(&mut stream);
                stream.write_all(&answer).unwrap();
            }
        });
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let payload = Payload::Traces(ExportTraceServiceRequest::default());
        let outcomes: Vec<Outcome> = runtime.block_on(async {
            let mut outcomes = Vec::new();
            for _ in 0..tries {
                // Each with a connection of its own.
                let transport = Transport::new(target(port, Protocol::Grpc)).unwrap();
                outcomes.push(transport.send(&payload).await);
            }
            outcomes
        });
        server.join().unwrap();
        let (broken, answered) = outcomes.split_at(tries - 2);
        for outcome in broken {
            assert!(matches!(outcome, Outcome::Again(None, _)), "{outcome:?}");
        }
        assert_eq!(answered[0], Outcome::Taken(0, String::new()));
        assert!(matches!(answered[1], Outcome::Refused(_)), "{answered:?}");
    }

    fn details(seconds: i64, nanos: i32) -> Vec<u8> {
        let info = RetryInfo {
            retry_delay: Some(RpcDuration { seconds, nanos }),
        };
        RpcStatus {
            code: 8,
            message: "full".to_owned(),
            details: vec![RpcAny {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                value: info.encode_to_vec(),
            }],
        }
        .encode_to_vec()
    }

    #[test]
    fn a_code_decides_whether_it_is_tried_again() {
        let again = |code| {
            let status = tonic::Status::new(code, "");
            matches!(judged(&status), Outcome::Again(None, _))
        };
        assert!(again(Code::Unavailable) && again(Code::Aborted) && again(Code::DataLoss));
        assert!(again(Code::Cancelled) && again(Code::DeadlineExceeded) && again(Code::OutOfRange));
        assert!(!again(Code::ResourceExhausted) && !again(Code::Unauthenticated));
        assert!(!again(Code::InvalidArgument) && !again(Code::Internal) && !again(Code::Unknown));
        let full = tonic::Status::with_details(
            Code::ResourceExhausted,
            "full",
            details(2, 500_000_000).into(),
        );
        assert!(
            matches!(judged(&full), Outcome::Again(Some(pause), _) if pause == Duration::from_millis(2_500))
        );
    }

    #[test]
    fn a_pause_is_seconds_or_a_date_and_has_bounds() {
        let after = |text: &'static str| retry_after(&HeaderValue::from_static(text));
        assert_eq!(after("3"), Some(Duration::from_secs(3)));
        assert_eq!(after("99999999999"), Some(LONGEST_PAUSE));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(after("Fri, 06 Nov 2199 08:49:37 GMT"), Some(LONGEST_PAUSE));
        assert_eq!(after("soon"), None);
        assert_eq!(retry_info(&details(i64::MAX, 0)), Some(LONGEST_PAUSE));
        assert_eq!(retry_info(&details(-1, 0)), None);
        assert_eq!(retry_info(b"\xff\xff"), None);
    }
}
