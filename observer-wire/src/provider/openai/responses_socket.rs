//! OpenAI Responses over WebSocket (openai-python 3.54 `resources/responses`, `connect`): the client's
//! `response.create` is a request, and the server's messages are the events of its stream. `stream_id` tells
//! responses that run at the same time from each other.

use serde_json::Value;

use super::super::{
    Certainty, Event, Provider as _, Recognized, counter,
    fields::About,
    hosts,
    openai::responses::{self, Responses},
    session::{Dialogue, Spoken, Turns},
    text,
};
use crate::http::RequestHead;

/// See the module.
pub(in crate::provider) struct ResponsesSocket;

static WITHOUT_CONTENT: Spoken = Spoken {
    sent: responses::WITHOUT_CONTENT.request,
    received: responses::WITHOUT_CONTENT.event,
};
static WITH_CONTENT: Spoken = Spoken {
    sent: responses::WITH_CONTENT.request,
    received: responses::WITH_CONTENT.event,
};

impl Dialogue for ResponsesSocket {
    fn recognize(&self, head: &RequestHead) -> Option<Recognized> {
        if !head.path.ends_with(responses::PATH) {
            return None;
        }
        let known = hosts::of(head);
        Some(Recognized {
            provider: known.unwrap_or("openai"),
            operation: "chat",
            model: None,
            stream: true,
            certainty: match known {
                Some(_) => Certainty::Certain,
                None => Certainty::Likely,
            },
        })
    }

    fn about(&self) -> &'static About {
        const ABOUT: About = About {
            title: "OpenAI Responses over WebSocket",
            endpoints: &[("WebSocket …/responses", "chat")],
            bodies: "messages of JSON; a call is a response",
            source: "openai-python 3.54 `resources/responses`",
            fields: &responses::FIELDS,
        };
        &ABOUT
    }

    fn selections(&self) -> [&'static Spoken; 2] {
        [&WITHOUT_CONTENT, &WITH_CONTENT]
    }

    fn sent(&self, message: &Value, turns: &mut Turns) {
        if text(message, "type") == Some("response.create") {
            let Some(turn) = turns.begin_by_client() else {
                return;
            };
            turn.key = text(message, "stream_id").map(str::to_owned);
            Responses.request(message, &mut turn.call);
        }
    }

    fn received(&self, message: &Value, turns: &mut Turns) {
        let lane = text(message, "stream_id");
        if turns.find(|turn| turn.key.as_deref() == lane).is_none() {
            if text(message, "type") != Some("response.created") {
                return;
            }
            // The request was lost, or shows later.
            let turn = turns.begin_by_server();
            turn.key = lane.map(str::to_owned);
            turn.lost();
        }
        let Some(turn) = turns.find(|turn| turn.key.as_deref() == lane) else {
            return;
        };
        // An error has the status of an answer over HTTP.
        if let Some(status) = counter(message, "status") {
            turn.status = u16::try_from(status).ok();
        }
        Responses.event("", &Event::Json(message), &mut turn.call);
        if turn.call.is_terminal() {
            let number = turn.number();
            turns.end(|turn| turn.number() == number);
        }
    }
}
