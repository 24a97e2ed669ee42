//! What the providers answer: the wire formats of OpenAI and those that speak them (chat completions, Responses
//! and all else), Anthropic, Gemini, AWS Bedrock, Cohere, Mistral, Ollama, Hugging Face, those behind Vertex AI,
//! and those of Gemini and xAI over gRPC.

mod anthropic;
mod bedrock;
mod cohere;
mod gemini;
mod grpc;
mod mistral;
mod ollama;
mod openai;
mod operations;
mod responses;
mod tgi;
mod vertex;

use serde_json::{Value, json};

use super::{behaviour::Behaviour, http::Request, text};

/// An answer, and the truth about it.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
    /// A content-length that is not that of the body, as in answers to HEAD.
    pub(super) declared_length: Option<usize>,
    /// Fields after the body, of HTTP/2.
    pub(super) trailers: Vec<(String, String)>,
    pub(super) truth: Value,
}

pub(super) enum Body {
    None,
    Stream(Vec<Vec<u8>>),
    Whole(Vec<u8>),
}

/// What an LLM call answers, before it is put into a format.
struct Completion {
    words: Vec<String>,
    tools: Vec<String>,
    choices: usize,
    prompt_tokens: u64,
    completion_tokens: u64,
    cached: Option<u64>,
    reasoning: Option<u64>,
    usage: bool,
    error_after: Option<usize>,
    id: String,
}

impl Completion {
    fn text(&self) -> String {
        self.words.concat()
    }
}

/// The answer to a request.
pub(super) fn to(
    request: &Request,
    behaviour: &Behaviour,
    number: u64,
    random: &mut fastrand::Rng,
) -> Answer {
    let path = request.path.split('?').next().unwrap_or_default();
    let id = format!("req_{number:08x}{:08x}", random.u32(..));
    let document: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let post = request.method == "POST";
    let completion = completion(request, behaviour, &document, id, random);
    let mut answer = if post && path.ends_with("/chat/completions") {
        openai::answer(request, behaviour, &document, &completion)
    } else if post && path.ends_with("/responses") {
        responses::answer(request, behaviour, &document, &completion)
    } else if request.method == "GET" && path.contains("/responses/") {
        responses::fetched(request, &completion)
    } else if post && let Some(operation) = mistral::operation(path) {
        mistral::answer(operation, request, behaviour, &document, &completion)
    } else if post && let Some(operation) = ollama::operation(path) {
        ollama::answer(path, operation, behaviour, &document, &completion)
    } else if post && let Some(operation) = operations::of(path) {
        operations::answer(operation, request, behaviour, &document, &completion)
    } else if post && path.ends_with("/v1/messages") {
        anthropic::answer(behaviour, &document, &completion)
    } else if post && path.ends_with("/v1/messages/count_tokens") {
        plain(&json!({"input_tokens": 17}))
    } else if post
        && (path.ends_with(":generateContent") || path.ends_with(":streamGenerateContent"))
    {
        gemini::answer(request, behaviour, &document, &completion)
    } else if post && (path.ends_with(":rawPredict") || path.ends_with(":streamRawPredict")) {
        vertex::passed_on(path, request, behaviour, &document, &completion)
    } else if post
        && [":embedContent", ":batchEmbedContents", ":predict"]
            .iter()
            .any(|verb| path.ends_with(verb))
    {
        vertex::embeddings(path, &completion)
    } else if post && let Some(kind) = cohere::Kind::of(path) {
        cohere::answer(kind, behaviour, &document, &completion)
    } else if post && path == "/" && document.get("inputs").is_some() {
        tgi::answer(behaviour, &document, &completion)
    } else if let Some(place) = bedrock::Place::of(request) {
        bedrock::answer(&place, behaviour, &document, &completion)
    } else if post && path.starts_with(grpc::GEMINI) {
        grpc::gemini(request, behaviour, &completion)
    } else if post && path.starts_with(grpc::XAI) {
        grpc::xai(request, behaviour, &completion)
    } else if request.method == "HEAD" {
        Answer {
            body: Body::None,
            declared_length: Some(1234),
            ..plain(&Value::Null)
        }
    } else if path.ends_with("/nothing") {
        Answer {
            status: 204,
            body: Body::None,
            ..plain(&Value::Null)
        }
    } else {
        plain(&json!({"object": "list", "data": [{"id": "a-model"}]}))
    };
    if behaviour.has("malformed") {
        answer.body = Body::Whole(b"{\"choices\": [ this is no JSON".to_vec());
    }
    answer.truth["text"] = json!(completion.text());
    if behaviour.has("redirect") && !request.path.contains('?') {
        return redirection(request, answer.truth);
    }
    answer
}

fn completion(
    request: &Request,
    behaviour: &Behaviour,
    document: &Value,
    id: String,
    random: &mut fastrand::Rng,
) -> Completion {
    let count = match (behaviour.number("events"), behaviour.number("bytes")) {
        (Some(events), _) => usize::try_from(events).unwrap_or(10),
        (None, Some(bytes)) => usize::try_from(bytes).unwrap_or(0) / 8,
        (None, None) => random.usize(5..30),
    };
    let tools = behaviour.number("tools").unwrap_or(0);
    Completion {
        words: if tools > 0 {
            Vec::new()
        } else {
            text::words(random, count.max(1))
        },
        tools: (0..tools)
            .map(|index| ["get_weather", "search", "calculator"][index as usize % 3].to_owned())
            .collect(),
        choices: document
            .get("n")
            .and_then(Value::as_u64)
            .map_or(1, |n| usize::try_from(n).unwrap_or(1)),
        prompt_tokens: request.body.len() as u64 / 4 + 1,
        completion_tokens: count as u64 + tools * 7,
        cached: behaviour.number("cached"),
        reasoning: behaviour.number("reasoning"),
        usage: behaviour.get("usage") != Some("none"),
        error_after: behaviour
            .number("stream-error")
            .map(|events| usize::try_from(events).unwrap_or(0)),
        id,
    }
}

/// Takes back from the truth what the client can't know when only `sent` parts of the body were
/// sent. What a client that went away has read of them is its secret: then `sent` is the most.
pub(super) fn unfinished(truth: &mut Value, sent: usize, hang: bool) {
    if truth["llm_call"] == false || truth.get("error_body").is_some() {
        return;
    }
    let begun = truth["stream"] == true && sent > 0;
    let google = truth["provider"] == "google";
    truth["finish_reasons"] = json!([]);
    // Google counts in every chunk, Anthropic counts the prompt in the first event.
    truth["completion_tokens"] = if google && begun && !truth["prompt_tokens"].is_null() {
        json!(sent - 1)
    } else {
        Value::Null
    };
    if !(google && begun) {
        truth["reasoning_tokens"] = Value::Null;
    }
    let anthropic = truth["provider"] == "anthropic"
        || truth["provider"] == "aws_bedrock" && !truth["response_model"].is_null();
    if !begun || truth["operation"] == "chat" && !anthropic {
        truth["prompt_tokens"] = Value::Null;
        truth["cached_tokens"] = Value::Null;
    }
    if !begun {
        truth["response_model"] = Value::Null;
        truth["tool_calls"] = json!([]);
    }
    if hang {
        truth["status_code"] = Value::Null;
    }
}

/// Completes the truth about a request whose body was read after its answer.
pub(super) fn late(truth: &mut Value, request: &Request) {
    let document: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    if truth["llm_call"] != true || document.is_null() {
        if truth["model"] == "" {
            truth["model"] = Value::Null;
        }
        return;
    }
    if let Some(model) = document.get("model") {
        truth["model"] = model.clone();
        truth["stream"] = json!(document["stream"] == true);
    }
    let place = document.get("generationConfig").unwrap_or(&document);
    truth["temperature"] = place["temperature"].clone();
}

/// An answer that is no LLM call.
fn plain(document: &Value) -> Answer {
    Answer {
        status: 200,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: Body::Whole(document.to_string().into_bytes()),
        declared_length: None,
        trailers: Vec::new(),
        truth: json!({"llm_call": false}),
    }
}

/// Sends the client to the same path with a query.
fn redirection(request: &Request, mut truth: Value) -> Answer {
    const STATUS: u16 = 307;
    for field in [
        "response_model",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "reasoning_tokens",
        "request_id",
    ] {
        truth[field] = Value::Null;
    }
    truth["status_code"] = json!(STATUS);
    for field in ["finish_reasons", "tool_calls"] {
        truth[field] = json!([]);
    }
    Answer {
        status: STATUS,
        headers: vec![("location".to_owned(), format!("{}?again", request.path))],
        body: Body::Whole(b"elsewhere".to_vec()),
        declared_length: None,
        trailers: Vec::new(),
        truth,
    }
}

/// An LLM call's answer. `id_header` is the provider's name for the header with the request's id.
fn call(
    status: u16,
    content_type: &str,
    id_header: &str,
    completion: &Completion,
    body: Body,
    truth: Value,
) -> Answer {
    let mut truth = truth;
    truth["llm_call"] = json!(true);
    truth["status_code"] = json!(status);
    truth["request_id"] = json!(completion.id);
    Answer {
        status,
        headers: vec![
            ("content-type".to_owned(), content_type.to_owned()),
            (id_header.to_owned(), completion.id.clone()),
        ],
        body,
        declared_length: None,
        trailers: Vec::new(),
        truth,
    }
}

/// An error, as JSON in the provider's form or as a gateway's HTML.
fn error(
    status: u16,
    id_header: &str,
    behaviour: &Behaviour,
    completion: &Completion,
    document: &Value,
    truth: Value,
) -> Answer {
    let (content_type, body) = if behaviour.has("html") {
        (
            "text/html",
            format!("<html><body><h1>{status}</h1></body></html>"),
        )
    } else {
        ("application/json", document.to_string())
    };
    let mut answer = call(
        status,
        content_type,
        id_header,
        completion,
        Body::Whole(body.into_bytes()),
        truth,
    );
    if behaviour.has("fails") {
        // So that nobody waits for the back-off of the SDKs.
        answer
            .headers
            .push(("retry-after-ms".to_owned(), "20".to_owned()));
    }
    answer.truth["error_body"] = document.clone();
    answer
}

/// One event of a stream.
fn event(name: Option<&str>, data: &Value) -> Vec<u8> {
    match name {
        Some(name) => format!("event: {name}\ndata: {data}\n\n").into_bytes(),
        None => format!("data: {data}\n\n").into_bytes(),
    }
}

/// Puts the error event in its place and drops what would follow. Returns whether there is one.
fn break_off<T>(events: &mut Vec<T>, completion: &Completion, error: T) -> bool {
    let Some(after) = completion.error_after else {
        return false;
    };
    events.truncate(after);
    events.push(error);
    true
}
