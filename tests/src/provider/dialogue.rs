//! What the providers say in sessions of WebSocket: OpenAI Realtime, OpenAI Responses, Gemini Live. Each answer
//! has a truth of its own, told apart by the id of the response or, of Gemini, by order.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Shared, Stream,
    answer::{self, Body},
    behaviour::Behaviour,
    http::Request,
    remember, text,
    websocket::{Session, base64},
};

/// The formats, by the path.
enum Format {
    Live { vertex: bool },
    Realtime,
    Responses,
}

/// Answers a request that asks for a session.
pub(super) fn serve(
    stream: &mut Stream,
    buffer: Vec<u8>,
    request: &Request,
    shared: &Shared,
) -> anyhow::Result<()> {
    let path = request.path.split('?').next().unwrap_or_default();
    let format = if path.ends_with("/realtime") {
        Format::Realtime
    } else if path.ends_with("/responses") {
        Format::Responses
    } else {
        Format::Live {
            vertex: path.contains("aiplatform"),
        }
    };
    let (number, mut random) = shared.next();
    let behaviour = Behaviour::of(request);
    let id = format!("req_{number:08x}{:08x}", random.u32(..));
    if let Some(status) = behaviour.number("error") {
        return refuse(stream, request, shared, status, &id);
    }
    if behaviour.has("unanswered") {
        // As far away as a server is: the reader of a client would see the end before its writer has returned.
        thread::sleep(Duration::from_millis(20));
        return Ok(());
    }
    let fork = random.fork();
    let mut session = Session::accept(stream, buffer, request, &behaviour, &id, fork)?;
    let mut talk = Talk {
        session: &mut session,
        request,
        behaviour: &behaviour,
        shared,
        random,
        id,
        model: Value::Null,
        said: 0,
    };
    match format {
        Format::Live { vertex } => talk.live(vertex),
        Format::Realtime => talk.realtime(),
        Format::Responses => talk.responses(),
    }
}

/// Refuses a session as OpenAI does.
fn refuse(
    stream: &mut Stream,
    request: &Request,
    shared: &Shared,
    status: u64,
    id: &str,
) -> anyhow::Result<()> {
    let body = json!({"error": {"message": "It's refused", "type": "invalid_request_error", "code": null}});
    let body = body.to_string();
    remember(
        shared,
        json!({
            "llm_call": true, "provider": "openai", "operation": "realtime",
            "model": asked_model(request), "response_model": null,
            "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
            "temperature": null, "stream": true, "status_code": status,
            "finish_reasons": [], "tool_calls": [], "request_id": id, "response_id": null,
            "server_ns": u64::try_from(request.first_byte.elapsed().as_nanos())?,
        }),
    );
    let head = format!(
        "HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nx-request-id: {id}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all([head, body].concat().as_bytes())?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

/// The model that the path names.
fn asked_model(request: &Request) -> Option<&str> {
    let mut pairs = request.path.split(['?', '&']);
    pairs.find_map(|pair| pair.strip_prefix("model="))
}

struct Talk<'s, 'a> {
    session: &'s mut Session<'a>,
    request: &'s Request,
    behaviour: &'s Behaviour,
    shared: &'s Shared,
    random: fastrand::Rng,
    id: String,
    model: Value,
    /// Bytes of the client's messages since the last answer.
    said: u64,
}

/// What an answer is made of.
struct Said {
    words: Vec<String>,
    tools: Vec<String>,
    prompt: u64,
    completion: u64,
    cached: u64,
    /// Bytes of audio that each word comes with.
    audio: usize,
}

impl Talk<'_, '_> {
    fn realtime(&mut self) -> anyhow::Result<()> {
        let asked = asked_model(self.request);
        self.model = asked.map_or(Value::Null, |model| json!(model));
        let model = format!("{}-2025-08-28", asked.unwrap_or("gpt-realtime"));
        let session = json!({"type": "realtime", "id": "sess_1", "object": "realtime.session", "model": model});
        self.session.write(
            &json!({"type": "session.created", "event_id": "event_0", "session": session}),
        )?;
        let mut appended = 0;
        while let Some(message) = self.session.read()? {
            self.said += message.to_string().len() as u64;
            let begun = Instant::now();
            match message["type"].as_str().unwrap_or_default() {
                "session.update" => self.session.write(
                    &json!({"type": "session.updated", "event_id": "event_1", "session": session}),
                )?,
                "response.create" if self.behaviour.has("invalid") => {
                    let error = json!({"type": "invalid_request_error", "code": "invalid_value",
                        "message": "It's refused: naïve", "param": null, "event_id": message["event_id"]});
                    self.session
                        .write(&json!({"type": "error", "event_id": "event_2", "error": error}))?;
                    let mut truth = self.truth("openai", &model);
                    truth["error_type"] = json!("invalid_request_error");
                    self.know(truth, begun);
                }
                "response.create" => {
                    let goes_on = self.respond(&model, begun)?;
                    if !goes_on {
                        return Ok(());
                    }
                }
                "input_audio_buffer.append" => {
                    appended += 1;
                    if self.behaviour.number("vad") == Some(appended) {
                        appended = 0;
                        let speech = json!({"type": "input_audio_buffer.speech_stopped", "event_id": "event_3"});
                        self.session.write(&speech)?;
                        let begun = Instant::now();
                        if !self.respond(&model, begun)? {
                            return Ok(());
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A response of OpenAI Realtime; false if the session is over.
    fn respond(&mut self, model: &str, begun: Instant) -> anyhow::Result<bool> {
        let said = self.answer();
        let id = format!("resp_{:016x}", self.random.u64(..));
        let mut truth = self.truth("openai", model);
        truth["response_id"] = json!(id);
        truth["text"] = json!(said.words.concat());
        let response = json!({"id": id, "object": "realtime.response", "status": "in_progress",
            "status_details": null, "output": [], "usage": null});
        self.session.write(
            &json!({"type": "response.created", "event_id": "event_4", "response": response}),
        )?;
        let stop = self.behaviour.number("stop");
        let cut = self.behaviour.number("cut");
        let mut output = Vec::new();
        for (index, tool) in said.tools.iter().enumerate() {
            let item = json!({"id": format!("item_{index}"), "type": "function_call", "name": tool,
                "call_id": format!("call_{index}"), "arguments": "{\"city\": \"Oslo\"}"});
            self.session.write(
                &json!({"type": "response.output_item.added", "event_id": "event_5",
                "response_id": id, "output_index": index, "item": item}),
            )?;
            self.session.write(&json!({"type": "response.function_call_arguments.delta",
                "event_id": "event_6", "response_id": id, "output_index": index, "delta": "{\"city\""}))?;
            output.push(item);
        }
        for (index, word) in (0..).zip(&said.words) {
            if stop == Some(index) || cut == Some(index) {
                truth["finish_reasons"] = json!([]);
                self.know(truth, begun);
                if stop.is_some() {
                    self.session.close(1011, "The server had an error")?;
                } else {
                    self.session.cut()?;
                }
                return Ok(false);
            }
            thread::sleep(self.behaviour.pause("token-ms"));
            let mut delta = json!({"type": "response.output_text.delta", "event_id": "event_7",
                "response_id": id, "output_index": 0, "content_index": 0, "delta": word});
            if said.audio > 0 {
                delta["type"] = json!("response.output_audio_transcript.delta");
                self.session.write(&delta)?;
                let mut audio = vec![0; said.audio];
                self.random.fill(&mut audio);
                delta["type"] = json!("response.output_audio.delta");
                delta["delta"] = json!(base64(&audio));
            }
            self.session.write(&delta)?;
        }
        truth["prompt_tokens"] = json!(said.prompt);
        truth["completion_tokens"] = json!(said.completion);
        truth["cached_tokens"] = json!(said.cached);
        truth["finish_reasons"] = json!(["completed"]);
        truth["tool_calls"] = json!(said.tools);
        let spoken = if said.audio > 0 {
            said.completion / 2
        } else {
            0
        };
        truth["audio_output_tokens"] = json!(spoken);
        let mut done = json!({"id": id, "object": "realtime.response", "status": "completed",
        "status_details": null, "output": output, "usage": {
            "total_tokens": said.prompt + said.completion,
            "input_tokens": said.prompt,
            "output_tokens": said.completion,
            "input_token_details": {"text_tokens": said.prompt, "audio_tokens": 0, "cached_tokens": said.cached},
            "output_token_details": {"text_tokens": said.completion - spoken, "audio_tokens": spoken},
        }});
        if self.behaviour.has("fail") {
            done["status"] = json!("failed");
            done["status_details"] = json!({"type": "failed", "error": {"type": "server_error",
                "code": "rate_limit_exceeded", "message": "You exceeded your quota"}});
            truth["finish_reasons"] = json!(["failed"]);
            truth["error_type"] = json!("server_error");
        }
        self.know(truth, begun);
        self.session
            .write(&json!({"type": "response.done", "event_id": "event_8", "response": done}))?;
        Ok(true)
    }

    /// OpenAI Responses: the events are those of a stream over HTTP.
    fn responses(&mut self) -> anyhow::Result<()> {
        while let Some(mut message) = self.session.read()? {
            let begun = Instant::now();
            message["stream"] = json!(true);
            let request = Request {
                method: "POST".to_owned(),
                path: "/v1/responses".to_owned(),
                headers: self.request.headers.clone(),
                body: message.to_string().into_bytes(),
                first_byte: begun,
            };
            let number = self.random.u64(..);
            let answer = answer::to(&request, self.behaviour, number, &mut self.random);
            let Body::Stream(events) = answer.body else {
                anyhow::bail!("no stream");
            };
            let mut truth = answer.truth;
            truth["response_id"] = json!(format!(
                "resp_{}",
                truth["request_id"].as_str().unwrap_or_default()
            ));
            truth["request_id"] = json!(self.id);
            truth["status_code"] = json!(101);
            let mut events = events.into_iter().peekable();
            while let Some(event) = events.next() {
                thread::sleep(self.behaviour.pause("token-ms"));
                let event = String::from_utf8(event)?;
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                if events.peek().is_none() {
                    self.know(truth.clone(), begun);
                }
                if let Some(data) = data {
                    let mut document: Value = serde_json::from_str(data)?;
                    if !message["stream_id"].is_null() {
                        document["stream_id"] = message["stream_id"].clone();
                    }
                    self.session.write(&document)?;
                }
            }
        }
        Ok(())
    }

    fn live(&mut self, vertex: bool) -> anyhow::Result<()> {
        let mut temperature = Value::Null;
        while let Some(message) = self.session.read()? {
            self.said += message.to_string().len() as u64;
            let begun = Instant::now();
            if let Some(setup) = message.get("setup") {
                let model = setup["model"].as_str().unwrap_or_default();
                self.model = json!(model.rsplit('/').next());
                temperature = setup["generationConfig"]["temperature"].clone();
                self.session.write(&json!({"setupComplete": {}}))?;
                continue;
            }
            // The SDK writes some keys in snake case.
            let either = |camel: &str, snake: &str| message.get(camel).or(message.get(snake));
            let content = either("clientContent", "client_content").is_some();
            let tools = either("toolResponse", "tool_response").is_some();
            let typed = either("realtimeInput", "realtime_input")
                .is_some_and(|input| !input["text"].is_null());
            if !content && !typed && !tools {
                continue;
            }
            let mut said = self.answer();
            if tools {
                // The tool was called before.
                said.tools.clear();
            }
            if !said.tools.is_empty() {
                let calls: Vec<Value> = said.tools.iter().enumerate()
                    .map(|(index, tool)| json!({"id": format!("call_{index}"), "name": tool, "args": {"city": "Oslo"}}))
                    .collect();
                self.session
                    .write(&json!({"toolCall": {"functionCalls": calls}}))?;
            }
            if let Some(index) = self.behaviour.number("stop") {
                let provider = if vertex { "vertex_ai" } else { "google" };
                let mut truth = self.truth(provider, "");
                truth["response_model"] = Value::Null;
                truth["temperature"] = temperature.clone();
                self.know(truth, begun);
                for word in said.words.iter().take(usize::try_from(index)?) {
                    let turn = json!({"role": "model", "parts": [{"text": word}]});
                    self.session
                        .write(&json!({"serverContent": {"modelTurn": turn}}))?;
                }
                return self.session.close(1011, "Internal error encountered.");
            }
            for word in &said.words {
                thread::sleep(self.behaviour.pause("token-ms"));
                let turn = json!({"role": "model", "parts": [{"text": word}]});
                self.session
                    .write(&json!({"serverContent": {"modelTurn": turn}}))?;
            }
            let provider = if vertex { "vertex_ai" } else { "google" };
            let mut truth = self.truth(provider, "");
            truth["response_model"] = Value::Null;
            truth["temperature"] = temperature.clone();
            truth["prompt_tokens"] = json!(said.prompt);
            truth["completion_tokens"] = json!(said.completion);
            truth["cached_tokens"] = json!(said.cached);
            truth["tool_calls"] = json!(said.tools);
            truth["text"] = json!(said.words.concat());
            self.know(truth, begun);
            let usage = json!({"promptTokenCount": said.prompt, "responseTokenCount": said.completion,
                "cachedContentTokenCount": said.cached, "totalTokenCount": said.prompt + said.completion});
            let done = json!({"turnComplete": true});
            if self.behaviour.has("late-usage") {
                self.session.write(&json!({"serverContent": done}))?;
                self.session.write(&json!({"usageMetadata": usage}))?;
            } else {
                self.session
                    .write(&json!({"serverContent": done, "usageMetadata": usage}))?;
            }
        }
        Ok(())
    }

    fn answer(&mut self) -> Said {
        let count = self
            .behaviour
            .number("events")
            .unwrap_or_else(|| self.random.u64(5..30));
        let tools = self.behaviour.number("tools").unwrap_or(0);
        let prompt = self.said / 4 + 1;
        Said {
            words: text::words(&mut self.random, usize::try_from(count).unwrap_or(1)),
            tools: (0..tools)
                .map(|index| ["get_weather", "search", "calculator"][index as usize % 3].to_owned())
                .collect(),
            prompt,
            completion: count + tools * 7,
            cached: self.behaviour.number("cached").unwrap_or(0),
            audio: usize::try_from(self.behaviour.number("audio").unwrap_or(0)).unwrap_or(0),
        }
    }

    /// What is known of an answer that has only begun.
    fn truth(&self, provider: &str, model: &str) -> Value {
        json!({
            "llm_call": true,
            "provider": provider, "operation": "realtime",
            "model": self.model, "response_model": model,
            "prompt_tokens": null, "completion_tokens": null, "cached_tokens": null, "reasoning_tokens": null,
            "temperature": null, "stream": true, "status_code": 101,
            "finish_reasons": [], "tool_calls": [],
            "request_id": self.id, "response_id": null, "error_type": null,
        })
    }

    /// The truth is complete, but for the last message of the answer.
    fn know(&self, mut truth: Value, begun: Instant) {
        truth["test"] = json!(self.request.header("x-test-case"));
        truth["server_ns"] = json!(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        remember(self.shared, truth);
    }
}
