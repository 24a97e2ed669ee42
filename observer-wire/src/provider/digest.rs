//! What the messages of a request tell while they stream through: hashes, and ids of tool results. No text
//! is held.
//!
//! The reader of JSON passes over messages without looking into them. So this reads beside it, of all formats
//! alike: they differ in where the messages are, and share what a message is. What is hashed of one is its role
//! and its strings and numbers, in order, with the names of their members. What carries no meaning, or moves
//! while a conversation grows, is left out: white space, types of parts, marks of caches, and whether a text is
//! a string or a list of one part.
//!
//! It is lenient: whether it is JSON at all is for others to say.

use std::collections::VecDeque;

use crate::{
    body::json::string_end,
    evidence::{MessageList, ToolResult},
    hash::{Hasher, hash, mix},
};

/// Members of a request that are what an agent says each time: Anthropic's and Bedrock's, Gemini's in both
/// spellings, those of OpenAI Responses.
const HEADS: &[&[u8]] = &[
    b"system",
    b"systemInstruction",
    b"system_instruction",
    b"instructions",
];

/// Members in which tools are described.
const TOOLS: &[&[u8]] = &[b"tools", b"toolConfig", b"functions"];

/// Members that mark what the provider is to remember (Anthropic, Bedrock): they move with each request.
const CACHE_MARKS: &[&[u8]] = &[b"cache_control", b"cachePoint"];

/// How a part of Claude Code's system prompt begins that differs from request to request (2.1).
const BILLING: &[u8] = b"x-anthropic-billing-header";

/// Deepest nesting, as in [`crate::body::json`].
const DEPTH: usize = 127;

/// How deep in a message members are looked at: a message, its parts, what is in a part, and the answer in it.
const SCOPES: usize = 6;

/// Longest id or name, and longest name of a member, in bytes.
const WORD_BYTES: usize = 128;

/// Most results of tools that are kept, the last of them.
const RESULTS: usize = 128;

/// Reads a request beside the parser.
pub(super) struct Digest {
    /// The members that hold the messages.
    places: &'static [&'static str],
    seed: u64,
    /// Open objects and arrays, and which of them are objects.
    depth: usize,
    objects: u128,
    area: Area,
    /// A string that comes is the name of a member.
    key_next: bool,
    string: Option<Text>,
    /// A number or literal that is being read.
    scalar: Vec<u8>,
    /// The beginning of the string, where it is wanted.
    word: Vec<u8>,
    /// The member that was named last, and its hash.
    key: Key,
    tag: u64,
    /// Within a mark that counts for nothing: the depth of its name.
    muted: Option<usize>,
    /// Where the next byte is.
    position: u64,
    /// Depth of the members of a message.
    base: usize,
    scopes: [Scope; SCOPES],
    /// The hash of the message so far.
    fold: u64,
    role: Role,
    system: u64,
    tools: u64,
    rolling: u64,
    list: MessageList,
    beginnings: VecDeque<u64>,
    results: VecDeque<ToolResult>,
    broken: bool,
    seen: bool,
}

/// In what the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Area {
    Head,
    Messages,
    Other,
    Tools,
}

/// Names of members that matter.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Key {
    CallId,
    Content,
    Error,
    FunctionResponse,
    Id,
    IsError,
    Name,
    #[default]
    Other,
    Output,
    Response,
    Role,
    Status,
    Text,
    ToolResult,
    Type,
}

impl Key {
    fn of(name: &[u8]) -> Self {
        match name {
            b"content" => Self::Content,
            b"error" => Self::Error,
            b"functionResponse" | b"function_response" => Self::FunctionResponse,
            b"call_id" | b"tool_call_id" | b"tool_use_id" | b"toolUseId" => Self::CallId,
            b"id" => Self::Id,
            b"is_error" => Self::IsError,
            b"name" | b"tool_name" => Self::Name,
            b"output" => Self::Output,
            b"response" => Self::Response,
            b"role" => Self::Role,
            b"status" => Self::Status,
            b"text" => Self::Text,
            b"toolResult" => Self::ToolResult,
            b"type" => Self::Type,
            _ => Self::Other,
        }
    }

    /// Whether its value is what a tool gave back.
    fn is_result(self) -> bool {
        matches!(self, Self::Content | Self::Output | Self::Response)
    }

    /// Whether the value itself is looked at.
    fn is_read(self) -> bool {
        matches!(
            self,
            Self::CallId | Self::Id | Self::Name | Self::Role | Self::Status | Self::Type
        )
    }
}

/// Who says something.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Role {
    Model,
    System,
    Tool,
    #[default]
    User,
}

/// A string that is being read.
struct Text {
    key: bool,
    escaped: bool,
    length: u64,
    hasher: Option<Hasher>,
    /// Its beginning is kept.
    read: bool,
}

/// An object or array of a message.
#[derive(Default)]
struct Scope {
    /// The member that is being read.
    key: Key,
    tag: u64,
    id: Option<String>,
    name: Option<String>,
    kind: Kind,
    failed: bool,
    /// There is a member that tells of an error.
    error: bool,
    /// Where what a tool gave back begins, and its length.
    start: u64,
    length: u64,
}

/// What a part of a message is, as far as it matters.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    /// An item that is the model's (Responses).
    Called,
    #[default]
    Other,
    /// The result of a tool.
    Result,
}

impl Digest {
    /// Nothing of the request yet. Messages are in the first of these members that is there.
    pub(super) fn new(places: &'static [&'static str], seed: u64) -> Self {
        Self {
            places,
            seed,
            depth: 0,
            objects: 0,
            area: Area::Other,
            key_next: false,
            string: None,
            scalar: Vec::new(),
            word: Vec::new(),
            key: Key::Other,
            tag: 0,
            muted: None,
            position: 0,
            base: usize::MAX,
            scopes: Default::default(),
            fold: 0,
            role: Role::User,
            system: 0,
            tools: 0,
            rolling: seed,
            list: MessageList::default(),
            beginnings: VecDeque::new(),
            results: VecDeque::new(),
            broken: false,
            seen: false,
        }
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && !self.broken {
            if self.string.is_some() {
                at += self.string(&bytes[at..]);
                continue;
            }
            let byte = bytes[at];
            at += 1;
            let here = self.position;
            self.position += 1;
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' | b'}' | b']' | b',' if !self.scalar.is_empty() => {
                    self.scalar_end();
                }
                _ => {}
            }
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => {}
                b'"' => self.string_start(),
                b':' => self.key_next = false,
                b',' => {
                    self.key_next = self.is_object();
                    if self.depth == 1 {
                        self.area = Area::Other;
                    }
                    self.unmute();
                }
                b'{' | b'[' => self.open(byte == b'{', here),
                b'}' | b']' => self.close(here),
                _ if self.scalar.len() < WORD_BYTES => self.scalar.push(byte),
                _ => {}
            }
        }
    }

    /// Bytes are missing: nothing can be told of the list.
    pub(super) fn gap(&mut self) {
        self.broken = true;
    }

    /// What the messages are, if all of them were seen, and the results of tools among those that were.
    pub(super) fn finish(mut self) -> (MessageList, Vec<ToolResult>) {
        let whole = self.seen && self.depth == 0 && self.string.is_none() && !self.broken;
        if !whole {
            return (MessageList::default(), self.results.into());
        }
        if self.system != 0 || self.tools != 0 {
            self.list.head = mix(self.system, self.tools).max(1);
        }
        let head = self.list.head;
        let beginnings = self.beginnings.iter().rev();
        self.list.beginnings = beginnings.map(|rolling| mix(*rolling, head)).collect();
        (self.list, self.results.into())
    }

    /// Bytes held, roughly.
    pub(super) fn memory(&self) -> usize {
        let ids: usize = self.results.iter().map(|result| result.id.len()).sum();
        size_of::<Self>()
            + self.word.capacity()
            + self.scalar.capacity()
            + self.beginnings.capacity() * size_of::<u64>()
            + self.results.capacity() * size_of::<ToolResult>()
            + ids
    }

    fn is_object(&self) -> bool {
        self.depth > 0 && self.objects >> self.depth & 1 == 1
    }

    /// The object or array of the message that is being read, if it is not too deep.
    fn scope(&mut self) -> Option<&mut Scope> {
        if self.area != Area::Messages {
            return None;
        }
        self.scopes.get_mut(self.depth.checked_sub(self.base)?)
    }

    /// What is at this depth counts again.
    fn unmute(&mut self) {
        self.muted = self.muted.filter(|depth| *depth < self.depth);
    }

    fn string_start(&mut self) {
        let key = self.key_next;
        let read = match self.area {
            _ if key => self.depth == 1 || self.area != Area::Other,
            Area::Head => true,
            Area::Messages => self.key.is_read(),
            Area::Other | Area::Tools => false,
        };
        let hashed = !key
            && self.muted.is_none()
            && match self.area {
                Area::Head | Area::Messages => true,
                Area::Tools => self.key == Key::Name,
                Area::Other => false,
            };
        self.string = Some(Text {
            key,
            escaped: false,
            length: 0,
            hasher: hashed.then(|| Hasher::new(self.seed)),
            read,
        });
    }

    /// Reads on in a string; returns how many bytes it took.
    fn string(&mut self, bytes: &[u8]) -> usize {
        let Some(text) = &mut self.string else {
            return 0;
        };
        let start = usize::from(text.escaped);
        let end = string_end(&bytes[start..]);
        let closed = end.is_ok();
        text.escaped = end == Err(true);
        let end = end.map_or(bytes.len(), |end| start + end);
        let piece = &bytes[..end];
        text.length += piece.len() as u64;
        if let Some(hasher) = &mut text.hasher {
            hasher.update(piece);
        }
        if text.read {
            let room = WORD_BYTES.saturating_sub(self.word.len());
            self.word.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let used = end + usize::from(closed);
        self.position += used as u64;
        if closed && let Some(text) = self.string.take() {
            if text.key {
                self.named();
            } else {
                self.text(&text);
            }
            self.word.clear();
        }
        used
    }

    /// A member is named.
    fn named(&mut self) {
        self.unmute();
        if self.depth == 1 {
            self.seen = true;
            let name = self.word.as_slice();
            let of_messages = self.places.iter().any(|place| place.as_bytes() == name);
            self.area = match name {
                _ if of_messages && self.base == usize::MAX => Area::Messages,
                _ if HEADS.contains(&name) => Area::Head,
                _ if TOOLS.contains(&name) => Area::Tools,
                _ => Area::Other,
            };
            self.key = Key::Other;
            return;
        }
        if self.area == Area::Other {
            return;
        }
        self.key = Key::of(&self.word);
        if self.muted.is_none() && CACHE_MARKS.contains(&self.word.as_slice()) {
            self.muted = Some(self.depth);
        }
        if self.area == Area::Messages {
            // A text is a text, be it a part or all of the content.
            self.tag = match self.key {
                Key::Content | Key::Text => 0,
                _ => hash(self.seed, &self.word),
            };
            let (key, tag) = (self.key, self.tag);
            if let Some(scope) = self.scope() {
                (scope.key, scope.tag) = (key, tag);
                scope.error |= key == Key::Error;
            }
        }
    }

    /// A string is complete that is a value.
    fn text(&mut self, text: &Text) {
        let Some(hasher) = &text.hasher else {
            return;
        };
        let hash = hasher.finish();
        match self.area {
            Area::Head if self.word.starts_with(BILLING) || self.key == Key::Type => {}
            Area::Head => self.system = mix(self.system, hash).max(1),
            Area::Tools => self.tools = mix(self.tools, hash).max(1),
            Area::Other => {}
            Area::Messages if self.base == usize::MAX || self.depth < self.base => {
                // The message is nothing but this text.
                if self.depth == 1 {
                    self.base = 2;
                }
                self.begin_message();
                self.fold = mix(self.fold, mix(0, hash));
                self.end_message();
            }
            Area::Messages => self.member(hash, text.length),
        }
    }

    fn member(&mut self, hash: u64, length: u64) {
        if length == 0 {
            return;
        }
        let (key, outermost) = (self.key, self.depth == self.base);
        let word = std::str::from_utf8(&self.word).unwrap_or_default();
        match key {
            Key::Role if outermost => {
                self.role = match word {
                    "assistant" | "model" | "chatbot" | "CHATBOT" => Role::Model,
                    "developer" | "system" | "SYSTEM" => Role::System,
                    "function" | "tool" | "TOOL" => Role::Tool,
                    _ => Role::User,
                };
                return;
            }
            Key::Type => {
                let kind = match word {
                    "tool_result" => Kind::Result,
                    _ if word.ends_with("_call_output") => Kind::Result,
                    "reasoning" => Kind::Called,
                    _ if word.ends_with("_call") => Kind::Called,
                    _ => Kind::Other,
                };
                if let Some(scope) = self.scope() {
                    scope.kind = kind;
                }
                return;
            }
            Key::CallId | Key::Id | Key::Name => {
                let word = word.to_owned();
                match (self.scope(), key) {
                    (Some(scope), Key::CallId) => scope.id = Some(word),
                    (Some(scope), Key::Id) => scope.id = scope.id.take().or(Some(word)),
                    (Some(scope), _) => scope.name = Some(word),
                    (None, _) => {}
                }
            }
            Key::Status => {
                let failed = word == "error";
                if let Some(scope) = self.scope() {
                    scope.failed |= failed;
                }
            }
            _ if key.is_result() => {
                if let Some(scope) = self.scope() {
                    scope.length = length;
                }
            }
            _ => {}
        }
        self.fold = mix(self.fold, mix(self.tag, hash));
    }

    fn scalar_end(&mut self) {
        let scalar = std::mem::take(&mut self.scalar);
        let inside = self.area == Area::Messages && self.depth >= self.base;
        if inside && self.muted.is_none() && scalar != b"null" {
            if self.key == Key::IsError {
                let failed = scalar == b"true";
                if let Some(scope) = self.scope() {
                    scope.failed |= failed;
                }
            }
            let hash = hash(self.seed, &scalar);
            self.fold = mix(self.fold, mix(self.tag, hash));
        }
        self.scalar = scalar;
        self.scalar.clear();
    }

    fn open(&mut self, object: bool, here: u64) {
        if self.depth >= DEPTH {
            self.broken = true;
            return;
        }
        let outer = self.depth;
        self.depth += 1;
        let bit = 1 << self.depth;
        self.objects = if object {
            self.objects | bit
        } else {
            self.objects & !bit
        };
        self.key_next = object;
        if self.area != Area::Messages {
            return;
        }
        if outer == 1 {
            // A list of messages, or a single one.
            self.base = if object { 2 } else { 3 };
            if !object {
                return;
            }
        }
        if self.depth == self.base {
            self.begin_message();
        } else if self.depth > self.base {
            let index = self.depth - self.base;
            if let Some(around) = self.scopes.get_mut(index - 1)
                && around.key.is_result()
            {
                around.start = here;
            }
            if let Some(scope) = self.scopes.get_mut(index) {
                *scope = Scope::default();
            }
        }
        self.key = Key::Other;
    }

    fn close(&mut self, here: u64) {
        let Some(outer) = self.depth.checked_sub(1) else {
            self.broken = true;
            return;
        };
        if self.area == Area::Messages && self.depth >= self.base {
            if self.depth > self.base {
                self.close_scope(self.depth - self.base, here);
            } else {
                self.end_message();
            }
        }
        self.depth = outer;
        self.unmute();
        let (key, tag) = match self.scope() {
            Some(scope) => (scope.key, scope.tag),
            None => (Key::Other, 0),
        };
        (self.key, self.tag) = (key, tag);
    }

    /// An object or array in a message is complete.
    fn close_scope(&mut self, index: usize, here: u64) {
        let Some([around, scope]) = self.scopes.get_mut(index - 1..=index) else {
            return;
        };
        if around.key.is_result() {
            around.length = here + 1 - around.start;
            // Gemini's results say so by the name of their member.
            around.failed |= around.key == Key::Response && scope.error;
        }
        let by_name = matches!(around.key, Key::FunctionResponse | Key::ToolResult);
        if by_name || scope.kind == Kind::Result {
            let scope = std::mem::take(scope);
            self.result(scope);
        }
    }

    fn begin_message(&mut self) {
        self.scopes[0] = Scope::default();
        (self.fold, self.role) = (0, Role::User);
        (self.key, self.tag) = (Key::Other, 0);
    }

    fn end_message(&mut self) {
        let scope = std::mem::take(&mut self.scopes[0]);
        let mut role = self.role;
        match scope.kind {
            Kind::Called => role = Role::Model,
            Kind::Result => role = Role::Tool,
            Kind::Other => {}
        }
        if role == Role::Tool {
            self.result(scope);
        }
        if role == Role::System && self.list.count == 0 {
            self.system = mix(self.system, self.fold).max(1);
            return;
        }
        self.list.count += 1;
        self.list.answered |= role == Role::Model;
        self.rolling = mix(self.rolling, mix(self.fold, role as u64 + 1));
        if self.beginnings.len() >= MessageList::BEGINNINGS {
            self.beginnings.pop_front();
        }
        self.beginnings.push_back(self.rolling);
    }

    fn result(&mut self, scope: Scope) {
        let Some(id) = scope.id.or(scope.name) else {
            return;
        };
        if self.results.len() >= RESULTS {
            self.results.pop_front();
        }
        self.results.push_back(ToolResult {
            id,
            bytes: scope.length,
            failed: scope.failed,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(
        places: &'static [&'static str],
        body: &str,
        size: usize,
    ) -> (MessageList, Vec<ToolResult>) {
        let mut digest = Digest::new(places, 1);
        for piece in body.as_bytes().chunks(size) {
            digest.push(piece);
            assert!(digest.memory() < 48 * 1024);
        }
        digest.finish()
    }

    /// The list of a request, wherever it is split.
    fn list(places: &'static [&'static str], body: &str) -> MessageList {
        let whole = read(places, body, usize::MAX);
        for size in [1, 2, 7] {
            assert_eq!(read(places, body, size), whole, "{body}");
        }
        whole.0
    }

    fn chat(messages: &Value) -> MessageList {
        list(
            &["messages"],
            &json!({"model": "m", "messages": messages}).to_string(),
        )
    }

    fn extends(longer: &MessageList, shorter: &MessageList) -> bool {
        longer.beginnings.contains(&shorter.beginnings[0])
    }

    #[test]
    fn a_list_that_extends_another_begins_with_it() {
        let system = json!({"role": "system", "content": "Be brief."});
        let [one, two, three] =
            ["one", "two", "three"].map(|text| json!({"role": "user", "content": text}));
        let answer = json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":\"\\u00e9\"}"}}
        ]});
        let short = chat(&json!([system, one]));
        let long = chat(&json!([system, one, answer, two]));
        assert_eq!(
            (short.count, short.answered, short.beginnings.len()),
            (1, false, 1)
        );
        assert_eq!(
            (long.count, long.answered, long.beginnings.len()),
            (3, true, 3)
        );
        assert_eq!(short.head, long.head);
        assert!(short.head != 0 && extends(&long, &short) && !extends(&short, &long));
        assert!(!extends(
            &chat(&json!([system, three, answer, two])),
            &short
        ));
        assert!(!extends(
            &chat(&json!([{"role": "system", "content": "Go on."}, one, two])),
            &short
        ));
        assert!(!extends(&chat(&json!([system, two, one])), &short));
        let other = json!({"role": "assistant", "content": "one"});
        assert!(!extends(&chat(&json!([system, other, two])), &short));
        assert_eq!(chat(&json!([one])).head, 0);
    }

    #[test]
    fn only_the_longest_beginnings_are_kept() {
        let messages: Vec<Value> = (0..100)
            .map(|number| json!({"role": "user", "content": number.to_string()}))
            .collect();
        let [long, short, shorter] = [100, 69, 68].map(|count| chat(&json!(messages[..count])));
        assert_eq!((long.count, long.beginnings.len()), (100, 32));
        assert!(extends(&long, &short) && !extends(&long, &shorter));
    }

    #[test]
    fn what_moves_while_a_conversation_grows_changes_nothing() {
        let places: &[&str] = &["messages"];
        let plain = list(
            places,
            r#"{"system":"Be brief.","tools":[{"name":"f","input_schema":{"type":"object"}}],"messages":[{"role":"user","content":"one"}]}"#,
        );
        let marked = list(
            places,
            r#" { "messages" : [ { "content" : [ { "type" : "text" , "text" : "one" , "cache_control" : { "type" : "ephemeral", "ttl": 300 } } ] , "role" : "user" } ] ,
            "system" : [ {"type": "text", "text": "x-anthropic-billing-header: cch=1;"}, { "text" : "Be brief.", "cache_control": {"type":"ephemeral"} } ],
            "tools" : [ { "name" : "f", "description" : "Another.", "cache_control" : {"type": "ephemeral"} } ] } "#,
        );
        assert_eq!(plain, marked);
        assert_ne!(plain.head, 0);
        let other = list(
            places,
            r#"{"system":"Be brief.","tools":[{"name":"g"}],"messages":[{"role":"user","content":"one"}]}"#,
        );
        assert!(other.head != plain.head && other.beginnings != plain.beginnings);
    }

    #[test]
    fn messages_of_all_formats_are_found() {
        let one = chat(&json!([{"role": "user", "content": "one"}])).beginnings;
        for (places, body) in [
            (&["input"][..], json!({"input": "one"})),
            (
                &["input"],
                json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "one"}]}]}),
            ),
            (
                &["contents"],
                json!({"contents": [{"parts": [{"text": "one"}]}]}),
            ),
            (
                &["contents"],
                json!({"contents": {"role": "user", "parts": [{"text": "one"}]}}),
            ),
            (
                &["messages"],
                json!({"messages": [{"role": "user", "content": [{"text": "one"}, {"cachePoint": {"type": "default"}}]}]}),
            ),
        ] {
            assert_eq!(list(places, &body.to_string()).beginnings, one, "{body}");
        }
        let answered = json!({"input": [{"type": "reasoning", "id": "r"}, {"type": "function_call", "name": "f"}]});
        assert!(list(&["input"], &answered.to_string()).answered);
        let answered = json!({"contents": [{"role": "model", "parts": [{"text": "one"}]}]});
        assert!(list(&["contents"], &answered.to_string()).answered);
    }

    #[test]
    fn results_of_tools_are_found_in_all_formats() {
        let result = |id: &str, bytes, failed| ToolResult {
            id: id.to_owned(),
            bytes,
            failed,
        };
        for (places, body, expected) in [
            (
                &["messages"][..],
                r#"{"messages":[{"role":"tool","tool_call_id":"c1","content":"four"},{"content":[{"type":"text","text":"x"}],"role":"tool","tool_call_id":"c2"}]}"#,
                vec![result("c1", 4, false), result("c2", 28, false)],
            ),
            (
                &["messages"],
                r#"{"messages":[{"role":"tool","tool_name":"f","content":"{\"a\":1}"},{"role":"user","content":"x","name":"u"}]}"#,
                vec![result("f", 9, false)],
            ),
            (
                &["messages"],
                r#"{"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":"no","is_error":true},{"is_error":false,"tool_use_id":"t2","type":"tool_result","content":[{"type":"text","text":"y"}]},{"type":"text","text":"go on"}]}]}"#,
                vec![result("t1", 2, true), result("t2", 28, false)],
            ),
            (
                &["input"],
                r#"{"input":[{"id":"fc","call_id":"c1","type":"function_call","name":"f"},{"call_id":"c1","id":"fo","output":"sunny","type":"function_call_output"}]}"#,
                vec![result("c1", 5, false)],
            ),
            (
                &["contents"],
                r#"{"contents":[{"parts":[{"functionResponse":{"name":"f","response":{"output":1}}},{"function_response":{"id":"i","name":"g","response":{"error":"no"}}}]}]}"#,
                vec![result("f", 12, false), result("i", 14, true)],
            ),
            (
                &["messages"],
                r#"{"messages":[{"role":"user","content":[{"toolResult":{"toolUseId":"b1","status":"error","content":[{"text":"z"}]}}]}]}"#,
                vec![result("b1", 14, true)],
            ),
        ] {
            assert_eq!(read(places, body, usize::MAX).1, expected, "{body}");
            assert_eq!(read(places, body, 1).1, expected, "{body}");
        }
    }

    #[test]
    fn of_a_list_that_is_cut_nothing_is_told() {
        let body = json!({"messages": [{"role": "user", "content": "one"}]}).to_string();
        for cut in 0..body.len() {
            assert_eq!(list(&["messages"], &body[..cut]), MessageList::default());
        }
        let mut digest = Digest::new(&["messages"], 1);
        digest.push(&body.as_bytes()[..20]);
        digest.gap();
        digest.push(body.as_bytes());
        assert_eq!(digest.finish().0, MessageList::default());
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_split_matters(
            tokens in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "\\", "\"messages\":", "\"role\":", "\"tool\"", "\"content\":",
                "\"cache_control\":", "\"type\":\"tool_result\"", "\"tool_use_id\":\"x\"", "\"system\":", "\"tools\":",
                "\"name\":", "\"functionResponse\":", "\"response\":", "true", "null", "12", " ", "\u{e9}", "[[[[[[[[",
            ]), 0..80),
            size in 1_usize..9,
        ) {
            let body = tokens.concat();
            for start in ["", "{\"messages\":", "{\"messages\":[{"] {
                let body = format!("{start}{body}");
                prop_assert_eq!(read(&["messages"], &body, size), read(&["messages"], &body, usize::MAX));
            }
        }
    }
}
