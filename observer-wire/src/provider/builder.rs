//! The one place where an [`LlmCall`] is made.

use std::{borrow::Borrow, collections::BTreeMap, time::Duration};

use serde_json::{Map, Number, Value};

use super::{
    body::Told,
    fields::{Count, Counts, Field, Fields, find, merge_usage},
    gateways, marks, preview,
    sdk::{self, Exception, Sdk},
};
use crate::{
    call::{Incomplete, LlmCall},
    chunk::{Origin, Timestamp},
    connection::{Asked, Options},
    evidence::{Evidence, ToolCall, ToolResult},
};

/// Longest model name, finish reason or tool name, in code points.
const NAME_CHARS: usize = 256;

/// Longest word that is a parameter, in bytes.
const PARAMETER_BYTES: usize = 64;

/// Most tool calls and most finish reasons of a call; hostile indexes must not cost memory.
const LISTED: usize = 128;

/// What is known before the bodies are read.
#[derive(Clone)]
pub(super) struct Start {
    pub(super) provider: &'static str,
    pub(super) operation: &'static str,
    pub(super) fields: &'static Fields,
    pub(super) model: Option<String>,
    pub(super) at: Timestamp,
    pub(super) origin: Origin,
    pub(super) attempts: Option<u32>,
    pub(super) server_address: Option<String>,
    pub(super) server_port: Option<u16>,
    pub(super) url_path: Option<String>,
    pub(super) sdk: Sdk,
    /// What the head tells of its run.
    pub(super) evidence: Evidence,
}

/// What is known when the exchange is over.
pub(super) struct Finish {
    pub(super) latency: Duration,
    pub(super) status_code: Option<u16>,
    pub(super) request_id: Option<String>,
    pub(super) rate_limit: BTreeMap<String, String>,
    /// An error that the bodies do not tell.
    pub(super) error: Option<Exception>,
    pub(super) incomplete: Option<Incomplete>,
}

/// Gathers what a call's bodies say.
pub(super) struct CallBuilder {
    start: Start,
    options: Options,
    now: Timestamp,
    model: Option<String>,
    response_model: Option<String>,
    temperature: Option<Number>,
    stream: bool,
    parameters: Map<String, Value>,
    response_id: Option<String>,
    service_tier: Option<String>,
    counts: Counts,
    usage: Map<String, Value>,
    cost: Option<f64>,
    finish_reasons: BTreeMap<u64, String>,
    /// By choice and position, in the order in which they came.
    tool_calls: Vec<((u64, u64), ToolCall)>,
    /// Ids of what was asked and is not answered yet, where one request asks for several answers.
    pending: Vec<String>,
    evidence: Evidence,
    head: Option<Timestamp>,
    first_token: Option<Timestamp>,
    terminal: bool,
    error: Option<Exception>,
    input: Option<String>,
    output: String,
    output_chars: usize,
    /// Each part of the output has all that came before it.
    cumulative: bool,
}

impl CallBuilder {
    pub(super) fn new(start: Start, options: Options) -> Self {
        Self {
            now: start.at,
            model: start.model.as_deref().map(name),
            response_model: None,
            temperature: None,
            stream: false,
            parameters: Map::new(),
            response_id: None,
            service_tier: None,
            counts: Counts::default(),
            usage: Map::new(),
            cost: None,
            finish_reasons: BTreeMap::new(),
            tool_calls: Vec::new(),
            pending: Vec::new(),
            evidence: start.evidence.clone(),
            head: None,
            first_token: None,
            terminal: false,
            error: None,
            input: None,
            output: String::new(),
            output_chars: 0,
            cumulative: false,
            start,
            options,
        }
    }

    /// What follows was received at this time.
    pub(super) fn received_at(&mut self, at: Timestamp) {
        self.now = at;
    }

    /// The head of the response was received at this time.
    pub(super) fn head_at(&mut self, at: Timestamp) {
        self.head = Some(at);
    }

    /// Reads the fields of a request that stand in one place.
    pub(super) fn request_fields(&mut self, document: &Value) {
        for (field, places) in self.start.fields.request {
            if let Some(value) = find(document, places) {
                self.field(*field, value);
            }
        }
        let model = self.model.as_deref().unwrap_or_default();
        if let Some(provider) = gateways::by_model(self.start.provider, model) {
            self.start.provider = provider;
        }
    }

    /// Reads the fields of an answer, or of an event, that stand in one place.
    pub(super) fn answer_fields(&mut self, document: &Value) {
        for (field, places) in self.start.fields.answer {
            if let Some(value) = find(document, places) {
                self.field(*field, value);
            }
        }
    }

    fn field(&mut self, field: Field, value: &Value) {
        match (field, value) {
            (Field::Model, Value::String(model)) => self.request_model(Some(model)),
            (Field::ResponseModel, Value::String(model)) => self.response_model(Some(model)),
            (Field::ResponseId, Value::String(id)) => self.response_id(Some(id)),
            (Field::ServiceTier, Value::String(tier))
                if self.service_tier.as_ref() != Some(tier) =>
            {
                self.service_tier = Some(name(tier));
            }
            (Field::Conversation, Value::String(id)) => {
                self.evidence.conversation = Some(name(id));
            }
            (Field::PreviousResponse, Value::String(id)) => {
                self.evidence.previous_response = Some(name(id));
            }
            (Field::Session, Value::String(id)) => self.session(Some(id)),
            (Field::SessionOfUser, Value::String(user)) => {
                self.session(marks::session_of_user(user).as_deref());
            }
            (Field::Stream, Value::Bool(stream)) => self.stream(*stream),
            (Field::Temperature, Value::Number(_)) => self.temperature(Some(value)),
            (Field::Parameter(parameter), Value::String(text)) if text.len() <= PARAMETER_BYTES => {
                self.parameters.insert(parameter.to_owned(), value.clone());
            }
            (Field::Parameter(parameter), Value::Number(_) | Value::Bool(_)) => {
                self.parameters.insert(parameter.to_owned(), value.clone());
            }
            _ => {}
        }
    }

    /// The body names the session; what the head says counts more.
    fn session(&mut self, id: Option<&str>) {
        if let Some(id) = id.filter(|id| !id.is_empty())
            && self.evidence.session.is_none()
        {
            self.evidence.session = Some(name(id));
        }
    }

    /// The provider says what the call used: as it is, and what the format's table names of it. Of what it
    /// says several times the last counts.
    pub(super) fn usage(&mut self, usage: &Value) {
        if !usage.is_object() {
            return;
        }
        merge_usage(&mut self.usage, usage);
        self.counts.read(usage, self.start.fields);
        for (place, parts) in self.start.fields.cost {
            if let Some(cost) = find(usage, &[place]).and_then(Value::as_f64) {
                self.cost(cost / parts);
            }
        }
    }

    /// The same, by another table, and only of what was said nowhere else.
    pub(super) fn usage_unless_known(&mut self, usage: &Value, fields: &Fields) {
        let known = self.counts;
        merge_usage(&mut self.usage, usage);
        self.counts.read(usage, fields);
        self.counts.update(&known);
    }

    /// The answer turns out to be in a format with a table of its own.
    pub(super) fn read_as(&mut self, fields: &'static Fields) {
        self.start.fields = fields;
    }

    /// The bodies tell what the operation is.
    pub(super) fn operation(&mut self, operation: &'static str) {
        self.start.operation = operation;
    }

    /// Which operation it is, as far as is known.
    pub(super) fn is_operation(&self, operation: &str) -> bool {
        self.start.operation == operation
    }

    /// What the call cost by the provider's own account, in US dollars.
    pub(super) fn cost(&mut self, usd: f64) {
        if usd.is_finite() && usd >= 0.0 {
            self.cost = Some(usd);
        }
    }

    /// A count that stands elsewhere than in the usage.
    pub(super) fn count(&mut self, count: Count, value: Option<u64>) {
        self.counts.set(count, value);
    }

    /// The request names a model.
    pub(super) fn request_model(&mut self, model: Option<&str>) {
        if let Some(model) = model {
            self.model = Some(name(model));
        }
    }

    /// The response names a model.
    pub(super) fn response_model(&mut self, model: Option<&str>) {
        if let Some(model) = model.filter(|model| !model.is_empty())
            && self.response_model.as_deref() != Some(model)
        {
            self.response_model = Some(name(model));
        }
    }

    /// The response has an id.
    pub(super) fn response_id(&mut self, id: Option<&str>) {
        if let Some(id) = id.filter(|id| !id.is_empty())
            && self.response_id.as_deref() != Some(id)
        {
            self.response_id = Some(name(id));
        }
    }

    /// The request names a temperature.
    pub(super) fn temperature(&mut self, temperature: Option<&Value>) {
        if let Some(Value::Number(temperature)) = temperature {
            self.temperature = Some(temperature.clone());
        }
    }

    /// The answer is asked for, or comes, as a stream.
    pub(super) fn stream(&mut self, stream: bool) {
        self.stream |= stream;
    }

    /// Whether it is a stream.
    pub(super) fn is_stream(&self) -> bool {
        self.stream
    }

    /// Why a choice ended.
    pub(super) fn finish_reason(&mut self, choice: u64, reason: Option<&str>) {
        if let Some(reason) = reason
            && (self.finish_reasons.len() < LISTED || self.finish_reasons.contains_key(&choice))
        {
            self.finish_reasons.insert(choice, name(reason));
        }
    }

    /// The model wants a tool called. Only the first fragment of a call has the name.
    pub(super) fn tool_call(&mut self, place: (u64, u64), tool: Option<&str>) {
        if let Some(tool) = tool.filter(|tool| !tool.is_empty())
            && self.tool_calls.len() < LISTED
            && !self.tool_calls.iter().any(|(known, _)| *known == place)
        {
            let tool = ToolCall {
                id: None,
                name: name(tool),
                bytes: 0,
            };
            self.tool_calls.push((place, tool));
        }
    }

    /// The model wants a tool called, in a format that does not number the calls. Returns its place.
    pub(super) fn another_tool_call(&mut self, tool: Option<&str>) -> (u64, u64) {
        let place = (0, self.tool_calls.len() as u64);
        self.tool_call(place, tool);
        place
    }

    fn tool_at(&mut self, place: (u64, u64)) -> Option<&mut ToolCall> {
        let mut calls = self.tool_calls.iter_mut();
        calls
            .find(|(known, _)| *known == place)
            .map(|(_, tool)| tool)
    }

    /// The call of a tool has an id.
    pub(super) fn tool_id(&mut self, place: (u64, u64), id: Option<&str>) {
        if let Some(id) = id.filter(|id| !id.is_empty())
            && let Some(tool) = self.tool_at(place)
            && tool.id.is_none()
        {
            tool.id = Some(name(id));
        }
    }

    /// The arguments of the call of a tool are so long.
    pub(super) fn arguments(&mut self, place: (u64, u64), bytes: Option<u64>) {
        if let Some(bytes) = bytes
            && let Some(tool) = self.tool_at(place)
        {
            tool.bytes = bytes;
        }
    }

    /// The arguments go on.
    pub(super) fn more_arguments(&mut self, place: (u64, u64), bytes: Option<u64>) {
        if let Some(bytes) = bytes
            && let Some(tool) = self.tool_at(place)
        {
            tool.bytes = tool.bytes.saturating_add(bytes);
        }
    }

    /// The request asks something that is answered by this id.
    pub(super) fn awaits(&mut self, id: &Value) {
        if self.pending.len() < LISTED {
            self.pending.push(name(&id.to_string()));
        }
    }

    /// Something of this id is answered. Returns whether that was asked, and is answered for the first time.
    pub(super) fn answered(&mut self, id: &Value) -> bool {
        let id = name(&id.to_string());
        let place = self.pending.iter().position(|asked| *asked == id);
        place.map(|place| self.pending.swap_remove(place)).is_some()
    }

    /// Whether everything that was asked is answered.
    pub(super) fn is_answered(&self) -> bool {
        self.pending.is_empty()
    }

    /// What the body of the request tells of its run.
    pub(super) fn told(&mut self, told: Told) {
        self.evidence.messages = told.messages;
        self.evidence.tool_results = told.tool_results;
        self.evidence.body = told.body;
    }

    /// What is known of the call before its answer.
    pub(super) fn asked(&self) -> Asked {
        Asked {
            provider: self.start.provider,
            operation: self.start.operation,
            model: self.model.clone(),
            server_address: self.start.server_address.clone(),
            attempts: self.start.attempts,
            evidence: self.evidence.clone(),
        }
    }

    /// A part of the answer came that is not empty.
    pub(super) fn token(&mut self) {
        self.first_token.get_or_insert(self.now);
    }

    /// The answer is complete, whatever becomes of the connection.
    pub(super) fn terminal(&mut self) {
        self.terminal = true;
    }

    /// Whether a stream said that it is complete, or that it failed.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal || self.error.is_some()
    }

    /// An error came in the middle of a stream.
    pub(super) fn stream_error(&mut self, body: &Value) {
        self.error
            .get_or_insert_with(|| self.start.sdk.stream_error(body));
    }

    /// The provider says that it failed, in an answer for which no library raises an exception.
    pub(super) fn failed(&mut self, code: Option<&str>, message: Option<&str>) {
        self.error
            .get_or_insert_with(|| sdk::reported(code, message));
    }

    /// Longest input preview, in code points; `None` if none is wanted.
    pub(super) fn input_limit(&self) -> Option<usize> {
        self.options
            .capture_content
            .then_some(self.options.input_preview_chars)
    }

    /// The input as it is shown.
    pub(super) fn input(&mut self, text: &str) {
        if let Some(limit) = self.input_limit() {
            self.input = Some(preview::cut(text, limit));
        }
    }

    /// The input as it is shown, line by line, if there is any.
    pub(super) fn input_lines<S: Borrow<str>>(&mut self, lines: impl IntoIterator<Item = S>) {
        let lines: Vec<S> = lines.into_iter().collect();
        if !lines.is_empty() {
            self.input(&lines.join("\n"));
        }
    }

    /// The next part of the output.
    pub(super) fn output(&mut self, text: &str) {
        if !self.options.capture_content {
            return;
        }
        // A character more than is shown, so that the cut is marked.
        let room = self
            .options
            .output_preview_chars
            .saturating_add(1)
            .saturating_sub(self.output_chars);
        for character in text.chars().take(room) {
            self.output.push(character);
            self.output_chars += 1;
        }
    }

    /// Whether each part of a stream has all of the output that came before it.
    pub(super) fn cumulative(&mut self, cumulative: bool) {
        self.cumulative = cumulative;
    }

    /// Another part of a stream begins.
    pub(super) fn next_part(&mut self) {
        if self.cumulative {
            self.output.clear();
            self.output_chars = 0;
        }
    }

    /// The request began earlier than it seemed.
    pub(super) fn began(&mut self, at: Timestamp, origin: Origin) {
        (self.start.at, self.start.origin) = (at, origin);
    }

    /// When the request began.
    pub(super) fn started_at(&self) -> Timestamp {
        self.start.at
    }

    /// The host that the request names.
    pub(super) fn server_address(&self) -> Option<&str> {
        self.start.server_address.as_deref()
    }

    /// The client library.
    pub(super) fn sdk(&self) -> Sdk {
        self.start.sdk
    }

    /// Bytes held, roughly.
    pub(super) fn memory(&self) -> usize {
        let tools = self.tool_calls.iter().map(|(_, tool)| &tool.name);
        let ids = self
            .tool_calls
            .iter()
            .filter_map(|(_, tool)| tool.id.as_ref());
        let results = self.evidence.tool_results.iter();
        let evidence = ids.map(String::len).sum::<usize>()
            + results
                .map(|result| size_of::<ToolResult>() + result.id.len())
                .sum::<usize>()
            + self.evidence.messages.beginnings.len() * size_of::<u64>();
        let names: usize = self
            .finish_reasons
            .values()
            .chain(tools)
            .map(|name| size_of::<((u64, u64), ToolCall)>() + name.len())
            .sum();
        size_of::<Self>()
            + evidence
            + names
            + self.pending.iter().map(String::capacity).sum::<usize>()
            + (self.usage.len() + self.parameters.len()) * 2 * PARAMETER_BYTES
            + self.output.capacity()
            + self.input.as_ref().map_or(0, String::capacity)
    }

    /// The record.
    pub(super) fn finish(self, finish: Finish) -> LlmCall {
        let (error_type, error_message) = match self.error.or(finish.error) {
            Some((class, message)) => (Some(class), message),
            None => (None, None),
        };
        let output = preview::cut(&self.output, self.options.output_preview_chars);
        let tool_calls: Vec<ToolCall> = self.tool_calls.into_iter().map(|(_, tool)| tool).collect();
        let mut evidence = self.evidence;
        let tool_names = tool_calls.iter().map(|tool| tool.name.clone()).collect();
        evidence.tool_calls = tool_calls;
        LlmCall {
            provider: self.start.provider,
            operation: self.start.operation,
            model: self.model,
            response_model: self.response_model,
            response_id: self.response_id,
            service_tier: self.service_tier,
            prompt_tokens: self.counts.get(Count::Prompt),
            completion_tokens: self.counts.get(Count::Completion),
            cached_tokens: self.counts.get(Count::CacheRead),
            cache_write_tokens: self.counts.get(Count::CacheWrite),
            reasoning_tokens: self.counts.get(Count::Reasoning),
            audio_input_tokens: self.counts.get(Count::AudioInput),
            audio_output_tokens: self.counts.get(Count::AudioOutput),
            input_tokens: self.counts.input(self.start.fields),
            output_tokens: self.counts.output(self.start.fields),
            usage: (!self.usage.is_empty()).then_some(self.usage),
            cost_usd: self.cost,
            parameters: self.parameters,
            temperature: self.temperature,
            stream: self.stream,
            start: self.start.at,
            latency: finish.latency,
            time_to_headers: self.head.map(|head| head.since(self.start.at)),
            time_to_first_token: self
                .first_token
                .filter(|_| self.stream)
                .map(|first| first.since(self.start.at)),
            status_code: finish.status_code,
            error_type,
            error_message,
            finish_reasons: self.finish_reasons.into_values().collect(),
            tool_calls: tool_names,
            request_id: finish.request_id,
            rate_limit: finish.rate_limit,
            input_preview: self.input,
            output_preview: (!output.is_empty()).then_some(output),
            attempts: self.start.attempts,
            server_address: self.start.server_address,
            server_port: self.start.server_port,
            url_path: self.start.url_path,
            incomplete: finish.incomplete,
            origin: self.start.origin,
            evidence,
        }
    }
}

/// A name in its bounds.
pub(super) fn name(text: &str) -> String {
    if text.len() <= NAME_CHARS {
        return text.to_owned();
    }
    text.chars().take(NAME_CHARS).collect()
}
