//! Tables that say where a format has the fields of a record. Records are read by them, and the
//! documentation of the formats is generated from them.

use serde_json::{Map, Value};

use super::counter_of;

/// A format, for those who read about it.
pub(super) struct About {
    /// What people call it.
    pub(super) title: &'static str,
    /// Method and path, and the operation that it is.
    pub(super) endpoints: &'static [(&'static str, &'static str)],
    /// What the bodies of requests and answers are.
    pub(super) bodies: &'static str,
    /// Where all of it is taken from.
    pub(super) source: &'static str,
    pub(super) fields: &'static Fields,
}

/// Where a format has its fields. A place is a path of names; of several the first that has a value counts.
pub(super) struct Fields {
    /// In a request.
    pub(super) request: &'static [(Field, &'static [&'static str])],
    /// In an answer, or in that part of an event which is one.
    pub(super) answer: &'static [(Field, &'static [&'static str])],
    /// In what an answer says about its usage.
    pub(super) usage: &'static [(Count, &'static [&'static str])],
    /// There too: what the call cost, and in how many parts of a US dollar that is counted.
    pub(super) cost: &'static [(&'static str, f64)],
    /// Whether the input tokens include those that were read from, or written to, a cache.
    pub(super) cached: Included,
    /// Whether the output tokens include those that went into reasoning.
    pub(super) reasoning: Included,
}

/// A field of a record that stands in one place of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The conversation or thread that the provider keeps.
    Conversation,
    /// The model that is asked for.
    Model,
    /// What the request asks for beside: the name is that of OpenTelemetry's `gen_ai.request.…`, where there is
    /// one.
    Parameter(&'static str),
    /// The answer that the request goes on from.
    PreviousResponse,
    ResponseId,
    ResponseModel,
    /// The tier of service that the answer names.
    ServiceTier,
    /// The session by the client's own account.
    Session,
    /// Where clients put it into what stands for a user.
    SessionOfUser,
    /// Whether the answer is asked for as a stream.
    Stream,
    Temperature,
}

/// What providers count, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Count {
    AudioInput,
    AudioOutput,
    /// All input for which the provider asks money, where that is not what it counts as the prompt.
    BilledInput,
    /// The same of output.
    BilledOutput,
    CacheRead,
    CacheWrite,
    Completion,
    Prompt,
    Reasoning,
    /// Input by the results of tools, where it is counted apart from the prompt.
    ToolPrompt,
    Total,
}

/// Whether one count is part of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Included {
    No,
    /// Unless the total says that it came on top.
    Likely,
    Yes,
}

/// Token counts as the provider gives them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts([Option<u64>; Count::ALL.len()]);

impl Fields {
    /// No fields.
    #[cfg(test)]
    pub(super) const NONE: Self = Self {
        request: &[],
        answer: &[],
        usage: &[],
        cost: &[],
        cached: Included::Yes,
        reasoning: Included::Yes,
    };
}

impl Field {
    /// What records call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Conversation => "evidence.conversation",
            Self::Model => "model",
            Self::Parameter(name) => name,
            Self::PreviousResponse => "evidence.previous_response",
            Self::ResponseId => "response_id",
            Self::ResponseModel => "response_model",
            Self::ServiceTier => "service_tier",
            Self::Session => "evidence.session",
            Self::SessionOfUser => "evidence.session (within)",
            Self::Stream => "stream",
            Self::Temperature => "temperature",
        }
    }
}

impl Count {
    const ALL: [Self; 11] = [
        Self::AudioInput,
        Self::AudioOutput,
        Self::BilledInput,
        Self::BilledOutput,
        Self::CacheRead,
        Self::CacheWrite,
        Self::Completion,
        Self::Prompt,
        Self::Reasoning,
        Self::ToolPrompt,
        Self::Total,
    ];

    /// What records call it; parts of sums have no field of their own.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AudioInput => "audio_input_tokens",
            Self::AudioOutput => "audio_output_tokens",
            Self::BilledInput => "input_tokens (instead)",
            Self::BilledOutput => "output_tokens (instead)",
            Self::CacheRead => "cached_tokens",
            Self::CacheWrite => "cache_write_tokens",
            Self::Completion => "completion_tokens",
            Self::Prompt => "prompt_tokens",
            Self::Reasoning => "reasoning_tokens",
            Self::ToolPrompt => "input_tokens (added)",
            Self::Total => "total (to compare)",
        }
    }
}

impl Counts {
    /// A count, if the provider gave it.
    pub(super) fn get(&self, count: Count) -> Option<u64> {
        self.0[count as usize]
    }

    /// The provider gives a count; what it does not give stays.
    pub(super) fn set(&mut self, count: Count, value: Option<u64>) {
        let known = &mut self.0[count as usize];
        *known = value.or(*known);
    }

    /// The provider says what a call used.
    pub(super) fn read(&mut self, usage: &Value, fields: &Fields) {
        for (count, places) in fields.usage {
            self.set(*count, find(usage, places).and_then(counter_of));
        }
    }

    /// Takes over every count that the provider gave elsewhere.
    pub(super) fn update(&mut self, other: &Self) {
        for (known, value) in self.0.iter_mut().zip(other.0) {
            *known = value.or(*known);
        }
    }

    /// All input tokens, with those of caches, or those that are billed: OpenTelemetry's
    /// `gen_ai.usage.input_tokens`.
    pub(super) fn input(&self, fields: &Fields) -> Option<u64> {
        if let Some(billed) = self.get(Count::BilledInput) {
            return Some(billed);
        }
        let mut sum = self.get(Count::Prompt)?;
        if fields.cached == Included::No {
            sum = sum
                .saturating_add(self.get(Count::CacheRead).unwrap_or(0))
                .saturating_add(self.get(Count::CacheWrite).unwrap_or(0));
        }
        Some(sum.saturating_add(self.get(Count::ToolPrompt).unwrap_or(0)))
    }

    /// All output tokens, with those that went into reasoning, or those that are billed.
    pub(super) fn output(&self, fields: &Fields) -> Option<u64> {
        if let Some(billed) = self.get(Count::BilledOutput) {
            return Some(billed);
        }
        let (completion, reasoning) = (self.get(Count::Completion), self.get(Count::Reasoning));
        let on_top = match fields.reasoning {
            Included::No => true,
            Included::Likely => {
                let parts = [self.get(Count::Prompt), completion, reasoning];
                let sum = parts
                    .into_iter()
                    .try_fold(0_u64, |sum, part| sum.checked_add(part?));
                reasoning > Some(0) && sum.is_some() && sum == self.get(Count::Total)
            }
            Included::Yes => false,
        };
        match (completion, reasoning) {
            (Some(completion), Some(reasoning)) if on_top => {
                Some(completion.saturating_add(reasoning))
            }
            (None, reasoning) if on_top => reasoning,
            (completion, _) => completion,
        }
    }
}

/// The first value that is there and not null, of several places.
pub(super) fn find<'a>(document: &'a Value, places: &[&str]) -> Option<&'a Value> {
    places.iter().find_map(|place| {
        place
            .split('.')
            .try_fold(document, member)
            .filter(|value| !value.is_null())
    })
}

/// Members up to which looking at each is faster than hashing a name.
const FEW: usize = 12;

/// As [`Value::get`].
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let members = value.as_object()?;
    if members.len() > FEW {
        return members.get(name);
    }
    let found = members.iter().find(|(known, _)| *known == name)?;
    Some(found.1)
}

/// Deepest nesting, most members of an object and longest string of usage that is kept as it is.
const RAW_DEPTH: usize = 4;
const RAW_MEMBERS: usize = 48;
const RAW_CHARS: usize = 48;

/// Most values in a member.
const RAW_VALUES: usize = 96;

/// Adds what a provider says about usage to what it said before: of each member the last that is not null.
/// Numbers and short words are kept, in bounds.
pub(super) fn merge_usage(raw: &mut Map<String, Value>, usage: &Value) {
    let Some(usage) = usage.as_object() else {
        return;
    };
    for (name, value) in usage {
        if value.is_null() {
            continue;
        }
        if let Some((_, known)) = raw.iter_mut().find(|(known, _)| *known == name) {
            if *known != *value
                && let Some(value) = plain(value, RAW_DEPTH, &mut { RAW_VALUES })
            {
                *known = value;
            }
        } else if raw.len() < RAW_MEMBERS
            && name.len() <= RAW_CHARS
            && let Some(value) = plain(value, RAW_DEPTH, &mut { RAW_VALUES })
        {
            raw.insert(name.clone(), value);
        }
    }
}

fn plain(value: &Value, depth: usize, room: &mut usize) -> Option<Value> {
    *room = room.checked_sub(1)?;
    match value {
        Value::Null => None,
        Value::Bool(_) => Some(value.clone()),
        Value::Number(number) => (number.as_str().len() <= RAW_CHARS).then(|| value.clone()),
        Value::String(text) => (text.len() <= RAW_CHARS).then(|| value.clone()),
        Value::Array(items) => {
            let depth = depth.checked_sub(1)?;
            let items = items.iter().take(RAW_MEMBERS);
            Some(items.filter_map(|item| plain(item, depth, room)).collect())
        }
        Value::Object(members) => {
            let depth = depth.checked_sub(1)?;
            let members = members
                .iter()
                .take(RAW_MEMBERS)
                .filter(|(name, _)| name.len() <= RAW_CHARS)
                .filter_map(|(name, value)| Some((name.clone(), plain(value, depth, room)?)));
            Some(Value::Object(members.collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::PROVIDERS, *};
    use crate::body::json::Select;

    #[test]
    fn what_the_tables_name_is_selected() {
        for provider in PROVIDERS {
            let about = provider.about();
            if provider.messages(false).is_some() {
                continue;
            }
            for content in [false, true] {
                let selection = provider.selection(content);
                for (field, places) in about.fields.request {
                    for place in *places {
                        assert!(
                            is_selected(&selection.request, place),
                            "{}: {field:?} at {place}",
                            about.title
                        );
                    }
                }
            }
        }
    }

    /// Whether a place, or something around it, is kept.
    fn is_selected(select: &Select, place: &str) -> bool {
        match select {
            Select::All => true,
            Select::Scalar => place.is_empty(),
            Select::Either(one, other) => is_selected(one, place) || is_selected(other, place),
            Select::Object(members) => {
                let (name, rest) = place.split_once('.').unwrap_or((place, ""));
                members
                    .iter()
                    .any(|(member, select)| *member == name && is_selected(select, rest))
            }
            Select::Array(..) | Select::Length | Select::Mark => false,
        }
    }

    #[test]
    fn sums_include_what_providers_leave_out() {
        let counts = |values: &[(Count, u64)]| {
            let mut counts = Counts::default();
            for (count, value) in values {
                counts.set(*count, Some(*value));
            }
            counts
        };
        let fields = |cached, reasoning| Fields {
            cached,
            reasoning,
            ..Fields::NONE
        };
        let anthropic = counts(&[
            (Count::Prompt, 12),
            (Count::CacheRead, 100),
            (Count::CacheWrite, 7),
        ]);
        assert_eq!(
            anthropic.input(&fields(Included::No, Included::Yes)),
            Some(119)
        );
        assert_eq!(
            anthropic.input(&fields(Included::Yes, Included::Yes)),
            Some(12)
        );
        let thoughts = counts(&[(Count::Prompt, 8), (Count::Reasoning, 50)]);
        assert_eq!(
            thoughts.output(&fields(Included::Yes, Included::No)),
            Some(50)
        );
        assert_eq!(thoughts.output(&fields(Included::Yes, Included::Yes)), None);
        for (total, output) in [(30, 12), (25, 7)] {
            let xai = counts(&[
                (Count::Prompt, 18),
                (Count::Completion, 7),
                (Count::Reasoning, 5),
                (Count::Total, total),
            ]);
            assert_eq!(
                xai.output(&fields(Included::Yes, Included::Likely)),
                Some(output)
            );
        }
        let hostile = counts(&[(Count::Prompt, u64::MAX), (Count::CacheRead, u64::MAX)]);
        assert_eq!(
            hostile.input(&fields(Included::No, Included::No)),
            Some(u64::MAX)
        );
    }

    #[test]
    fn usage_is_kept_in_bounds() {
        let mut raw = Map::new();
        merge_usage(
            &mut raw,
            &json!({"input_tokens": 12, "output_tokens": 1, "cache": null}),
        );
        merge_usage(
            &mut raw,
            &json!({"input_tokens": null, "output_tokens": 7, "tier": "flex", "text": "x".repeat(99)}),
        );
        assert_eq!(
            Value::Object(raw.clone()),
            json!({"input_tokens": 12, "output_tokens": 7, "tier": "flex"})
        );
        let many: Map<String, Value> = (0..10_000).map(|i| (i.to_string(), json!(i))).collect();
        merge_usage(&mut raw, &Value::Object(many));
        assert_eq!(raw.len(), RAW_MEMBERS);
    }
}
