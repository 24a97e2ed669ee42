//! Which requests are LLM calls, and what their bodies say: one file a format, one line in
//! `PROVIDERS`.

mod anthropic;
mod anthropic_complete;
mod anthropic_errors;
mod bedrock;
mod bedrock_invoke;
mod body;
mod botocore;
mod builder;
mod calls;
mod cohere;
mod cohere_embed;
mod cohere_v1;
mod dashscope;
mod digest;
mod exchange;
mod fields;
mod gateways;
mod gemini;
mod gemini_embeddings;
mod gemini_grpc;
mod gemini_interactions;
mod gemini_live;
mod gemini_predict;
mod headers;
mod hosts;
mod llama_cpp;
mod marks;
mod mcp;
mod mistral;
mod ollama;
mod ollama_embed;
mod openai;
mod percent;
mod preview;
mod reference;
mod repr;
mod sdk;
mod session;
mod tgi;
mod vertex;
mod watsonx;
mod xai_grpc;

pub use calls::Calls;
pub use reference::reference;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use self::{builder::CallBuilder, fields::About, sdk::Exception, session::Dialogue};
use crate::{
    body::{json::Select, protobuf::Message},
    http::{RequestHead, ResponseHead},
};

/// Every format, in the order in which they are asked.
const PROVIDERS: &[&dyn Provider] = &[
    &gemini_grpc::GEMINI,
    &gemini_grpc::VERTEX,
    &xai_grpc::XaiGrpc,
    &bedrock::Converse,
    &bedrock_invoke::Invoke,
    &gemini::Gemini,
    &gemini_embeddings::GeminiEmbeddings,
    &gemini_predict::GeminiPredict,
    &gemini_interactions::Interactions,
    &anthropic::Anthropic,
    &anthropic_complete::AnthropicComplete,
    &cohere::Cohere,
    &cohere_v1::CohereV1,
    &cohere_embed::CohereEmbed,
    &mistral::Mistral,
    &dashscope::DashScope,
    &watsonx::Watsonx,
    &ollama::Ollama,
    &ollama_embed::OllamaEmbed,
    &llama_cpp::LlamaCpp,
    &tgi::Tgi,
    &mcp::Mcp,
    &openai::responses::Responses,
    &openai::responses::Fetched,
    &openai::completions::Completions,
    &openai::embeddings::Embeddings,
    &openai::images::Images,
    &openai::audio::Audio,
    &openai::moderations::Moderations,
    &openai::assistants::Assistants,
    &openai::retrieval::Retrieval,
    &openai::chat::Chat,
];

/// Every format of WebSocket sessions, in the order in which they are asked.
const DIALOGUES: &[&dyn Dialogue] = &[
    &gemini_live::GeminiLive,
    &openai::realtime::Realtime,
    &openai::responses_socket::ResponsesSocket,
];

/// A format of requests and responses.
trait Provider: Sync {
    /// Whether a request is, or may be, a call in this format.
    fn recognize(&self, head: &RequestHead) -> Option<Recognized>;

    /// Provider and operation of a request whose path is unknown, if its bodies turn out to be in this
    /// format; `None` if bodies alone do not tell.
    fn by_shape(&self, _head: &RequestHead) -> Option<(&'static str, &'static str)> {
        None
    }

    /// What it is called, where it is served and where its fields are.
    fn about(&self) -> &'static About;

    /// What is kept of the bodies: where no content is wanted, and where it is. In the first nothing may be
    /// selected that holds the text of a prompt or an answer.
    fn selections(&self) -> [&'static Selection; 2] {
        [&NO_SELECTION; 2]
    }

    /// Either of them.
    fn selection(&self, content: bool) -> &'static Selection {
        self.selections()[usize::from(content)]
    }

    /// The members of a request that hold its messages: the first that is there does. None in formats without.
    fn messages_at(&self) -> &'static [&'static str] {
        &[]
    }

    /// What is kept of the messages of a format of gRPC, instead of a selection of JSON. The same holds for
    /// `content`.
    fn messages(&self, _content: bool) -> Option<&'static Messages> {
        None
    }

    /// Whether a request body has the shape of this format; asked where the head leaves doubt.
    fn is_request(&self, document: &Value) -> bool;

    /// Whether a response or an event has the shape of this format; asked where the head leaves doubt.
    fn is_response(&self, document: &Value) -> bool;

    /// Reads the request.
    fn request(&self, document: &Value, call: &mut CallBuilder);

    /// Reads a response that came in one piece, or as much of it as came.
    fn response(&self, document: &Value, call: &mut CallBuilder);

    /// Reads one event of a streamed response: an event of SSE or of an AWS event stream, or an element of
    /// an array. `data` is not always JSON.
    fn event(&self, name: &str, data: &Event<'_>, call: &mut CallBuilder);

    /// Reads the head of the answer, where a format says something there.
    fn response_head(&self, _head: &ResponseHead, _call: &mut CallBuilder) {}

    /// The exception that the caller's library raises for a status of 400 or more.
    fn error(&self, failure: &Failure<'_>, call: &CallBuilder) -> Exception {
        call.sdk()
            .status_error(failure.status, failure.body, failure.raw)
    }

    /// Whether a request of this shape is a call, whatever is answered. Asked where only the bodies tell.
    fn is_settled_by_request(&self) -> bool {
        false
    }

    /// The member of a message of an AWS event stream that holds the event in base64, where it is not the
    /// message itself.
    fn wrapped(&self) -> Option<&'static str> {
        None
    }

    /// Whether an event that comes twice, one behind the other, says nothing new the second time.
    fn is_idempotent(&self) -> bool {
        true
    }
}

/// An answer whose status is an error.
struct Failure<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
    /// Its body, if it is JSON.
    body: Option<&'a Value>,
    /// The beginning of it, whatever it is.
    raw: &'a str,
}

/// The data of an event.
enum Event<'a> {
    /// What is selected of a JSON document.
    Json(&'a Value),
    /// Anything else, such as `[DONE]`.
    Text(&'a [u8]),
}

/// What a request head tells.
#[derive(Debug, PartialEq)]
struct Recognized {
    provider: &'static str,
    operation: &'static str,
    /// The model, where the path names it.
    model: Option<String>,
    /// Whether the path asks for a stream.
    stream: bool,
    certainty: Certainty,
}

/// How sure a request is a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    /// The head settles it.
    Certain,
    /// The path speaks for it: request or response must have the shape.
    Likely,
    /// Only the body can tell: request and response must have the shape.
    Possible,
}

/// What is kept of bodies in a format.
struct Selection {
    request: Select,
    response: Select,
    event: Select,
}

/// What is kept of messages in a format of gRPC.
struct Messages {
    request: Message,
    /// Of a whole answer.
    response: Message,
    /// Of each message of a stream.
    event: Message,
}

/// Of formats without JSON.
static NO_SELECTION: Selection = Selection {
    request: Select::Mark,
    response: Select::Mark,
    event: Select::Mark,
};

/// A string member.
fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

/// Whether a text member is there and not empty, be it kept or only marked or measured.
fn is_filled(value: &Value, key: &str) -> bool {
    match value.get(key) {
        Some(Value::Array(parts)) => !parts.is_empty(),
        Some(Value::Bool(mark)) => *mark,
        Some(Value::Number(length)) => length.as_u64() != Some(0),
        Some(Value::String(text)) => !text.is_empty(),
        _ => false,
    }
}

/// A counter. Some providers write floats (Cohere); a negative or absent one is `None`.
fn counter(value: &Value, key: &str) -> Option<u64> {
    counter_of(value.get(key)?)
}

fn counter_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        // Beyond 2^53 a float is no count any more.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (0.0..9e15).contains(&float).then_some(float.round() as u64)
    })
}

/// The elements of an array member; none if it is absent.
fn elements<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}
