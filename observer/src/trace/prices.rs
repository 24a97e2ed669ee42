//! What calls cost where the provider does not say, by a table of prices in LiteLLM's format
//! (`model_prices_and_context_window.json`): an object with an entry for each model, in US dollars per token.
//!
//! Sums are decimal and exact; only the result is rounded, to the nearest `f64`. What is not in the table
//! has no cost: an unknown model, a tier of service without a price, tokens that were not counted.

use std::{collections::HashMap, fmt, fs::File, io::Read as _, mem, path::Path, sync::Arc};

use anyhow::{Context as _, ensure};
use observer_wire::LlmCall;
use rust_decimal::Decimal;
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value};

/// The largest file that is read. LiteLLM's has 3.5 MB.
const FILE_BYTES: u64 = 16 << 20;

/// LiteLLM's entry that explains the others.
const SAMPLE: &str = "sample_spec";

/// Our names of providers and LiteLLM's (`litellm_provider`, and what keys begin with), where they differ.
const PROVIDERS: &[(&str, &[&str])] = &[
    ("aws_bedrock", &["bedrock"]),
    ("azure_openai", &["azure"]),
    ("cohere", &["cohere", "cohere_chat"]),
    ("featherless", &["featherless_ai"]),
    ("fireworks", &["fireworks_ai"]),
    ("friendli", &["friendliai"]),
    ("google", &["gemini"]),
    ("lambda", &["lambda_ai"]),
    ("meta", &["meta", "meta_llama"]),
    ("openai", &["openai", "text-completion-openai"]),
    ("together", &["together_ai"]),
    ("vercel", &["vercel_ai_gateway"]),
];

/// Prices by model.
#[derive(Clone)]
pub struct Prices {
    models: Arc<HashMap<String, Model>>,
}

/// The prices of a model.
#[derive(Debug, Default)]
struct Model {
    /// LiteLLM's name of who serves it.
    provider: Option<String>,
    prices: Vec<Price>,
    /// What all prices are multiplied by, by where and how the call is served: `us`, `fast`.
    factors: Vec<(Box<str>, Decimal)>,
}

/// A price and when it holds.
#[derive(Debug)]
struct Price {
    of: Of,
    /// How the call is served: `flex`, `priority`, `batches`; empty as is usual.
    tier: Box<str>,
    /// More input than this many tokens.
    above: u64,
    usd: Decimal,
}

/// What a price is of: a token of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    AudioInput,
    AudioOutput,
    CacheRead,
    CacheReadAudio,
    CacheReadImage,
    CacheWrite,
    /// Kept for an hour, and not for five minutes.
    CacheWriteHour,
    ImageInput,
    ImageOutput,
    Input,
    Output,
    Reasoning,
}

/// The tokens of a call, each once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tokens {
    /// Audio and images that were not read from a cache.
    audio_input: u64,
    audio_output: u64,
    /// The rest of what was read from a cache.
    cache_read: u64,
    cache_read_audio: u64,
    cache_read_image: u64,
    cache_write: u64,
    cache_write_hour: u64,
    image_input: u64,
    image_output: u64,
    /// The rest of the input.
    input: u64,
    /// The rest of the output.
    output: u64,
    reasoning: u64,
}

impl Prices {
    /// Reads a table.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not in the format: the error says where.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let read = || {
            let mut text = Vec::new();
            File::open(path)?
                .take(FILE_BYTES + 1)
                .read_to_end(&mut text)?;
            ensure!(
                text.len() as u64 <= FILE_BYTES,
                "it is longer than {} MiB",
                FILE_BYTES >> 20
            );
            Self::parse(&text)
        };
        read().with_context(|| format!("cannot take prices from {}", path.display()))
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let mut table = Table::default();
        let mut reader = serde_json::Deserializer::from_slice(text);
        let read = table.deserialize(&mut reader).and_then(|()| reader.end());
        let Table {
            models,
            entry,
            wrong,
        } = table;
        match (wrong, read) {
            (Some(wrong), _) => return Err(wrong.context(format!("{entry:?}"))),
            (None, Ok(())) => {}
            (None, Err(error)) if entry.is_empty() => {
                return Err(error).context("it is no JSON object of models");
            }
            (None, Err(error)) => return Err(error).context(format!("{entry:?}")),
        }
        ensure!(
            models.values().any(|model| !model.prices.is_empty()),
            "no model has a price per token, such as input_cost_per_token"
        );
        Ok(Self {
            models: Arc::new(models),
        })
    }

    /// What a call cost, in US dollars; `None` if it cannot be told.
    pub fn cost(&self, call: &LlmCall) -> Option<f64> {
        let model = self.model(call)?;
        let tier = tier(call);
        let price = |of| model.price(of, tier, call.input_tokens.unwrap_or(0));
        let (input, output) = (price(Of::Input), price(Of::Output));
        // What has a price must have been counted.
        let is_uncounted = |count: Option<u64>, usd: Option<Decimal>| {
            count.is_none() && usd.is_some_and(|usd| !usd.is_zero())
        };
        if is_uncounted(call.input_tokens, input)
            || is_uncounted(call.output_tokens, output)
            || (call.input_tokens, call.output_tokens) == (None, None)
        {
            return None;
        }
        let factor = model.factor(call)?;
        let tokens = Tokens::of(call);
        let read = price(Of::CacheRead).or(input);
        let written = price(Of::CacheWrite).or(input);
        let parts = [
            (tokens.input, input),
            (tokens.audio_input, price(Of::AudioInput).or(input)),
            (tokens.image_input, price(Of::ImageInput).or(input)),
            (tokens.cache_read, read),
            (tokens.cache_read_audio, price(Of::CacheReadAudio).or(read)),
            (tokens.cache_read_image, price(Of::CacheReadImage).or(read)),
            (tokens.cache_write, written),
            (
                tokens.cache_write_hour,
                price(Of::CacheWriteHour).or(written),
            ),
            (tokens.output, output),
            (tokens.audio_output, price(Of::AudioOutput).or(output)),
            (tokens.image_output, price(Of::ImageOutput).or(output)),
            (tokens.reasoning, price(Of::Reasoning).or(output)),
        ];
        let sum = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .try_fold(Decimal::ZERO, |sum, (count, usd)| {
                sum.checked_add(usd?.checked_mul(count.into())?)
            })?;
        let sum = sum.checked_mul(factor)?;
        // Text leads to the nearest number, which is written as the same digits.
        sum.normalize().to_string().parse().ok()
    }

    /// The entry of the model that answered, else of the one that was asked for: by its very name, then by
    /// what is left of it without place, version and date.
    fn model(&self, call: &LlmCall) -> Option<&Model> {
        let mut names: Vec<&str> = [&call.response_model, &call.model]
            .into_iter()
            .filter_map(|name| name.as_deref())
            .collect();
        while !names.is_empty() {
            let found = names
                .iter()
                .find_map(|name| self.named(name, call.provider));
            if found.is_some() {
                return found;
            }
            names = names.into_iter().filter_map(shorter).collect();
        }
        None
    }

    /// The entry of this name, if it is that provider's.
    fn named(&self, name: &str, provider: &'static str) -> Option<&Model> {
        let same = [provider];
        let theirs = PROVIDERS
            .iter()
            .find(|(ours, _)| *ours == provider)
            .map_or(&same[..], |(_, theirs)| theirs);
        let bare = self
            .models
            .get(name)
            .filter(|model| model.is_served_by(theirs));
        bare.or_else(|| {
            theirs
                .iter()
                .find_map(|theirs| self.models.get(&format!("{theirs}/{name}")))
        })
    }
}

impl fmt::Debug for Prices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "prices of {} models", self.models.len())
    }
}

/// A table that is being read, one entry after the other: all of them at once as JSON take fifty times the
/// room of their text.
#[derive(Default)]
struct Table {
    models: HashMap<String, Model>,
    /// The entry that is being read.
    entry: String,
    /// What is wrong with it.
    wrong: Option<anyhow::Error>,
}

impl<'de> DeserializeSeed<'de> for &mut Table {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Table {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(name) = entries.next_key()? {
            self.entry = name;
            if self.entry == SAMPLE {
                entries.next_value::<IgnoredAny>()?;
                continue;
            }
            let Entry(fields) = entries.next_value()?;
            match Model::parse(&fields) {
                Ok(model) => self.models.insert(mem::take(&mut self.entry), model),
                Err(error) => {
                    self.wrong = Some(error);
                    return Err(A::Error::custom("not in the format"));
                }
            };
        }
        self.entry.clear();
        Ok(())
    }
}

/// The fields of an entry that mean something here.
struct Entry(Map<String, Value>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Entry, A::Error> {
                let mut known = Map::new();
                while let Some(field) = fields.next_key::<String>()? {
                    if [FACTORS, PROVIDER, RANGES].contains(&&*field) || meaning(&field).is_some() {
                        known.insert(field, fields.next_value()?);
                    } else {
                        fields.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Entry(known))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Fields of an entry that are no prices: factors of all of them, who serves the model, and prices by ranges
/// of input tokens.
const FACTORS: &str = "provider_specific_entry";
const PROVIDER: &str = "litellm_provider";
const RANGES: &str = "tiered_pricing";

impl Model {
    fn parse(entry: &Map<String, Value>) -> anyhow::Result<Self> {
        let mut model = Self::default();
        for (field, value) in entry {
            match field.as_str() {
                PROVIDER => model.provider = value.as_str().map(str::to_owned),
                // Others than numbers mean something else.
                FACTORS => {
                    let factors = value.as_object().into_iter().flatten();
                    model.factors = factors
                        .filter_map(|(name, factor)| Some((name.as_str().into(), price(factor)?)))
                        .collect();
                }
                RANGES => {
                    for (index, tier) in value.as_array().into_iter().flatten().enumerate() {
                        model
                            .tiered(tier)
                            .with_context(|| format!("{field}[{index}]"))?;
                    }
                }
                _ => model.field(field, value, 0)?,
            }
        }
        Ok(model)
    }

    /// A field of an entry, or of a part of it that holds above so many tokens of input.
    fn field(&mut self, field: &str, value: &Value, least: u64) -> anyhow::Result<()> {
        if let Some((of, tier, above)) = meaning(field)
            && !value.is_null()
        {
            let usd = price(value).with_context(|| format!("{field}: {value} is no price"))?;
            self.prices.push(Price {
                of,
                tier: tier.into(),
                above: above.max(least),
                usd,
            });
        }
        Ok(())
    }

    /// Prices in a range of input tokens: `{"range": [256000, 1000000], "input_cost_per_token": 2.5e-07}`.
    fn tiered(&mut self, tier: &Value) -> anyhow::Result<()> {
        let fields = tier.as_object().context("not an object")?;
        // Other ranges are not of tokens.
        let Some(range) = fields.get("range") else {
            return Ok(());
        };
        let least = range
            .get(0)
            .and_then(|least| price(least)?.trunc().try_into().ok())
            .with_context(|| format!("range: {range} does not begin with a number of tokens"))?;
        for (field, value) in fields {
            self.field(field, value, least)?;
        }
        Ok(())
    }

    /// Whether a provider of one of these names serves it, such as `bedrock_converse` by `bedrock`.
    fn is_served_by(&self, names: &[&str]) -> bool {
        self.provider.as_deref().is_none_or(|provider| {
            names.iter().any(|name| {
                provider
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '-']))
            })
        })
    }

    fn price(&self, of: Of, tier: &str, input: u64) -> Option<Decimal> {
        self.prices
            .iter()
            .filter(|price| price.of == of && *price.tier == *tier)
            .filter(|price| price.above == 0 || input > price.above)
            .max_by_key(|price| price.above)
            .map(|price| price.usd)
    }

    /// What the prices are multiplied by because of where and how Anthropic served the call; `None` if the
    /// entry does not say.
    fn factor(&self, call: &LlmCall) -> Option<Decimal> {
        // What costs as is usual. Models that cannot be asked for a place have none.
        const USUAL: &[&str] = &["default", "global", "not_available", "standard"];
        let said = |field| call.usage.as_ref()?.get(field)?.as_str();
        ["inference_geo", "speed"]
            .into_iter()
            .filter_map(said)
            .filter(|said| !said.is_empty())
            .map(str::to_ascii_lowercase)
            .filter(|said| !USUAL.contains(&&**said))
            .try_fold(Decimal::ONE, |product, said| {
                let (_, factor) = self.factors.iter().find(|(name, _)| **name == *said)?;
                product.checked_mul(*factor)
            })
    }
}

impl Tokens {
    fn of(call: &LlmCall) -> Self {
        let mut input = call.input_tokens.unwrap_or(0);
        let mut output = call.output_tokens.unwrap_or(0);
        // No part is more than what is left.
        let take = |from: &mut u64, part: Option<u64>| {
            let part = part.unwrap_or(0).min(*from);
            *from -= part;
            part
        };
        let mut cache_read = take(&mut input, call.cached_tokens);
        let mut cache_write = take(&mut input, call.cache_write_tokens);
        let cache_write_hour = take(&mut cache_write, written_for_an_hour(call));
        let of_cache = |modality| cached_tokens(call, modality);
        let cache_read_audio = take(&mut cache_read, of_cache("audio"));
        let cache_read_image = take(&mut cache_read, of_cache("image"));
        let of_input = |modality| modality_tokens(call, &INPUT_DETAILS, modality);
        let of_output = |modality| modality_tokens(call, &OUTPUT_DETAILS, modality);
        // These count what is from the cache.
        let less = |all: Option<u64>, cached| all.map(|all| all.saturating_sub(cached));
        let audio_input = call.audio_input_tokens.or_else(|| of_input("audio"));
        let audio_input = take(&mut input, less(audio_input, cache_read_audio));
        let image_input = take(&mut input, less(of_input("image"), cache_read_image));
        let reasoning = take(&mut output, call.reasoning_tokens);
        let audio_output = call.audio_output_tokens.or_else(|| of_output("audio"));
        let audio_output = take(&mut output, audio_output);
        let image_output = take(&mut output, of_output("image"));
        Self {
            audio_input,
            audio_output,
            cache_read,
            cache_read_audio,
            cache_read_image,
            cache_write,
            cache_write_hour,
            image_input,
            image_output,
            input,
            output,
            reasoning,
        }
    }
}

/// Where usage tells input and output by modality: Gemini in either spelling, also of its Live API, and OpenAI,
/// in the singular of its Realtime API.
const INPUT_DETAILS: [&str; 5] = [
    "promptTokensDetails",
    "prompt_tokens_details",
    "input_tokens_details",
    "input_token_details",
    "prompt_token_details",
];
const OUTPUT_DETAILS: [&str; 6] = [
    "candidatesTokensDetails",
    "candidates_tokens_details",
    "responseTokensDetails",
    "response_tokens_details",
    "output_tokens_details",
    "output_token_details",
];

/// And what of the input is from a cache: Gemini.
const CACHE_DETAILS: [&str; 2] = ["cacheTokensDetails", "cache_tokens_details"];

/// Tokens of a modality.
fn modality_tokens(call: &LlmCall, places: &[&str], modality: &str) -> Option<u64> {
    let usage = call.usage.as_ref()?;
    of_modality(places.iter().find_map(|place| usage.get(*place))?, modality)
}

/// Tokens of a modality that were read from a cache. OpenAI has them within the details of the input.
fn cached_tokens(call: &LlmCall, modality: &str) -> Option<u64> {
    modality_tokens(call, &CACHE_DETAILS, modality).or_else(|| {
        let usage = call.usage.as_ref()?;
        let within = |place: &&str| usage.get(*place)?.get("cached_tokens_details");
        of_modality(INPUT_DETAILS.iter().find_map(within)?, modality)
    })
}

/// `[{"modality": "IMAGE", "tokenCount": 7}]` or `{"image_tokens": 7}`.
fn of_modality(details: &Value, modality: &str) -> Option<u64> {
    match details {
        Value::Array(parts) => parts
            .iter()
            .filter(|part| {
                let named = part.get("modality").and_then(Value::as_str);
                named.is_some_and(|named| named.eq_ignore_ascii_case(modality))
            })
            .filter_map(|part| {
                let count = part.get("tokenCount").or_else(|| part.get("token_count"));
                count?.as_u64()
            })
            .reduce(u64::saturating_add),
        details => details.get(format!("{modality}_tokens"))?.as_u64(),
    }
}

/// Tokens that were written to a cache for an hour: Anthropic's
/// `{"cache_creation": {"ephemeral_1h_input_tokens": 7}}`, Bedrock's
/// `{"cacheDetails": [{"ttl": "1h", "inputTokens": 7}]}`.
fn written_for_an_hour(call: &LlmCall) -> Option<u64> {
    let usage = call.usage.as_ref()?;
    if let Some(written) = usage.get("cache_creation") {
        return written.get("ephemeral_1h_input_tokens")?.as_u64();
    }
    usage
        .get("cacheDetails")?
        .as_array()?
        .iter()
        .filter(|part| part.get("ttl").and_then(Value::as_str) == Some("1h"))
        .filter_map(|part| part.get("inputTokens")?.as_u64())
        .reduce(u64::saturating_add)
}

/// How a call was served by the provider's word, else as was asked for; by the name that prices have then.
fn tier(call: &LlmCall) -> &str {
    let usage = call.usage.as_ref();
    let said = || usage?.get("service_tier")?.as_str();
    let asked = || call.parameters.get("service_tier")?.as_str();
    let answered = call.service_tier.as_deref();
    match answered.or_else(said).or_else(asked) {
        // OpenAI, Groq and Anthropic.
        None | Some("auto" | "default" | "on_demand" | "standard" | "standard_only") => "",
        Some("batch") => "batches",
        Some(other) => other,
    }
}

/// What a field of an entry is the price of, if it is one by the token:
/// `input_cost_per_token_above_200k_tokens_priority`.
fn meaning(field: &str) -> Option<(Of, &str, u64)> {
    const FIELDS: &[(&str, Of)] = &[
        ("cache_creation_input_token_cost", Of::CacheWrite),
        ("cache_read_input_audio_token_cost", Of::CacheReadAudio),
        ("cache_read_input_image_token_cost", Of::CacheReadImage),
        ("cache_read_input_token_cost", Of::CacheRead),
        ("input_cost_per_audio_token", Of::AudioInput),
        ("input_cost_per_image_token", Of::ImageInput),
        ("input_cost_per_token", Of::Input),
        ("output_cost_per_audio_token", Of::AudioOutput),
        ("output_cost_per_image_token", Of::ImageOutput),
        ("output_cost_per_reasoning_token", Of::Reasoning),
        ("output_cost_per_token", Of::Output),
    ];
    let (mut of, mut rest) = FIELDS
        .iter()
        .find_map(|(name, of)| Some((*of, field.strip_prefix(name)?)))?;
    let mut tier = "";
    let mut above = 0;
    while !rest.is_empty() {
        if let Some(left) = rest.strip_prefix("_above_1hr")
            && of == Of::CacheWrite
        {
            of = Of::CacheWriteHour;
            rest = left;
        } else if let Some(left) = rest.strip_prefix("_above_") {
            let (thousands, left) = left.split_once("k_tokens")?;
            above = thousands.parse::<u64>().ok()?.checked_mul(1000)?;
            rest = left;
        } else {
            let named = rest.strip_prefix('_')?;
            let end = named.find("_above_").unwrap_or(named.len());
            (tier, rest) = named.split_at(end);
        }
    }
    Some((of, tier, above))
}

/// A price as it is written, to the 28th decimal.
fn price(value: &Value) -> Option<Decimal> {
    let Value::Number(number) = value else {
        return None;
    };
    let text = number.to_string();
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let digits: Decimal = digits.parse().ok()?;
    let exponent: i64 = exponent.parse().ok()?;
    let usd = scaled(
        digits.mantissa(),
        i64::from(digits.scale()).checked_sub(exponent)?,
    );
    usd.filter(|usd| !usd.is_sign_negative())
}

/// `mantissa` / 10^`scale`, rounded.
fn scaled(mantissa: i128, scale: i64) -> Option<Decimal> {
    const TEN: i128 = 10;
    let most = i64::from(Decimal::MAX_SCALE);
    let (mantissa, scale) = if scale < 0 && mantissa != 0 {
        let power = TEN.checked_pow(u32::try_from(-scale).ok()?)?;
        (mantissa.checked_mul(power)?, 0)
    } else if scale > most {
        // Of what is divided by more than it can be nothing is left.
        let power = u32::try_from(scale - most)
            .ok()
            .and_then(|excess| TEN.checked_pow(excess));
        let rounded = |power| (mantissa + power / 2) / power;
        (power.map_or(0, rounded), most)
    } else {
        (mantissa, scale.max(0))
    };
    Decimal::try_from_i128_with_scale(mantissa, u32::try_from(scale).ok()?).ok()
}

/// A model's name without one of the parts that say where and since when: the next to be looked up.
fn shorter(name: &str) -> Option<&str> {
    // Gemini: `models/gemini-2.5-pro`, `publishers/google/models/gemini-2.5-pro`.
    if let Some((_, rest)) = name.split_once("models/") {
        return Some(rest);
    }
    // Bedrock: `us.anthropic.claude-sonnet-4-5-20250929-v1:0`.
    for place in ["apac.", "au.", "eu.", "global.", "jp.", "us-gov.", "us."] {
        if let Some(rest) = name.strip_prefix(place) {
            return Some(rest);
        }
    }
    // OpenAI: `ft:gpt-4o-2024-08-06:acme::id`.
    if let Some(tuned) = name.strip_prefix("ft:")
        && let Some((model, _)) = tuned.split_once(':')
    {
        return name.get(.."ft:".len() + model.len());
    }
    without_version(name).or_else(|| without_date(name))
}

/// Without `-v1:0`.
fn without_version(name: &str) -> Option<&str> {
    let (model, version) = name.rsplit_once("-v")?;
    let is_version = version.starts_with(|c: char| c.is_ascii_digit())
        && version.chars().all(|c| c.is_ascii_digit() || c == ':');
    is_version.then_some(model)
}

/// Without `-2024-08-06`, `-20250929` or `@20250929`.
fn without_date(name: &str) -> Option<&str> {
    let is_date = |date: &str| {
        let digits = date.bytes().filter(u8::is_ascii_digit).count();
        digits == 8
            && date.starts_with("20")
            && match date.len() {
                8 => true,
                10 => date.split('-').map(str::len).eq([4, 2, 2]),
                _ => false,
            }
    };
    [8, 10].into_iter().find_map(|length| {
        let at = name.len().checked_sub(length + 1)?;
        let (model, date) = (name.get(..at)?, name.get(at + 1..)?);
        let is_dated = matches!(name.get(at..=at)?, "-" | "@") && is_date(date);
        (is_dated && !model.is_empty()).then_some(model)
    })
}

#[cfg(test)]
mod tests {
    use observer_wire::{CallEvent, Chunk, Connection, Direction, Options, Origin, Timestamp};
    use serde_json::json;

    use super::*;

    /// In the shape of LiteLLM's file.
    const TABLE: &str = r#"{
        "sample_spec": {"max_tokens": "LEGACY parameter", "input_cost_per_token": "a number"},
        "gpt-4o": {"litellm_provider": "openai", "mode": "chat", "max_input_tokens": 128000,
            "input_cost_per_token": 2.5e-06, "input_cost_per_token_batches": 1.25e-06,
            "input_cost_per_token_priority": 4.25e-06, "output_cost_per_token_priority": 1.7e-05,
            "cache_read_input_token_cost": 1.25e-06, "cache_read_input_token_cost_priority": 2.125e-06,
            "output_cost_per_token": 1e-05, "output_cost_per_token_batches": 5e-06},
        "gpt-audio": {"litellm_provider": "openai", "input_cost_per_token": 2.5e-06,
            "output_cost_per_token": 1e-05, "input_cost_per_audio_token": 4e-05,
            "output_cost_per_audio_token": 8e-05},
        "gpt-realtime": {"litellm_provider": "openai", "input_cost_per_token": 4e-06,
            "input_cost_per_audio_token": 3.2e-05, "input_cost_per_image_token": 5e-06,
            "cache_read_input_token_cost": 4e-07, "cache_read_input_audio_token_cost": 3e-07,
            "cache_read_input_image_token_cost": 5e-07, "output_cost_per_token": 1.6e-05,
            "output_cost_per_audio_token": 6.4e-05, "provider_specific_entry": {"realtime_ga_only": 1}},
        "ft:gpt-4o-2024-08-06": {"litellm_provider": "openai", "input_cost_per_token": 3.75e-06,
            "output_cost_per_token": 1.5e-05},
        "text-embedding-3-small": {"litellm_provider": "openai", "mode": "embedding",
            "input_cost_per_token": 2e-08, "output_cost_per_token": 0.0},
        "claude-sonnet-4-5": {"litellm_provider": "anthropic", "input_cost_per_token": 3e-06,
            "output_cost_per_token": 1.5e-05, "cache_read_input_token_cost": 3e-07,
            "cache_creation_input_token_cost": 3.75e-06,
            "cache_creation_input_token_cost_above_1hr": 6e-06,
            "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 1.2e-05,
            "input_cost_per_token_above_200k_tokens": 6e-06,
            "output_cost_per_token_above_200k_tokens": 2.25e-05,
            "cache_read_input_token_cost_above_200k_tokens": 6e-07,
            "search_context_cost_per_query": {"search_context_size_low": 0.01}},
        "claude-opus-4-8": {"litellm_provider": "anthropic", "input_cost_per_token": 5e-06,
            "output_cost_per_token": 2.5e-05, "provider_specific_entry": {"us": 1.1, "fast": 2.0}},
        "gemini/gemini-2.5-pro": {"litellm_provider": "gemini", "input_cost_per_token": 1.25e-06,
            "input_cost_per_token_above_200k_tokens": 2.5e-06, "output_cost_per_token": 1e-05,
            "output_cost_per_token_above_200k_tokens": 1.5e-05},
        "gemini/gemini-2.5-flash": {"litellm_provider": "gemini", "input_cost_per_token": 3e-07,
            "output_cost_per_token": 2.5e-06, "output_cost_per_reasoning_token": 3.5e-06,
            "cache_read_input_token_cost": 3e-08, "cache_read_input_audio_token_cost": 1e-07,
            "input_cost_per_audio_token": 1e-06, "output_cost_per_image_token": 3e-05},
        "groq/llama-3.1-8b-instant": {"litellm_provider": "groq", "input_cost_per_token": 5e-08,
            "output_cost_per_token": 8e-08},
        "azure/gpt-4o": {"litellm_provider": "azure", "input_cost_per_token": 2.75e-06,
            "output_cost_per_token": 1.1e-05},
        "anthropic.claude-sonnet-4-5-20250929-v1:0": {"litellm_provider": "bedrock_converse",
            "cache_creation_input_token_cost": 4.125e-06,
            "cache_creation_input_token_cost_above_1hr": 6.6e-06,
            "input_cost_per_token": 3.3e-06, "output_cost_per_token": 1.65e-05},
        "friendliai/m": {"litellm_provider": "friendliai", "input_cost_per_token": 1e-06},
        "lambda_ai/m": {"litellm_provider": "lambda_ai", "input_cost_per_token": 2e-06},
        "featherless_ai/m": {"litellm_provider": "featherless_ai", "input_cost_per_token": 3e-06},
        "vercel_ai_gateway/m": {"litellm_provider": "vercel_ai_gateway", "input_cost_per_token": 4e-06},
        "meta/m": {"litellm_provider": "meta", "input_cost_per_token": 5e-06},
        "meta_llama/n": {"litellm_provider": "meta_llama", "input_cost_per_token": 6e-06},
        "dashscope/qwen-flash": {"litellm_provider": "dashscope", "tiered_pricing": [
            {"input_cost_per_token": 5e-08, "output_cost_per_token": 4e-07, "range": [0, 256000.0]},
            {"input_cost_per_token": 2.5e-07, "output_cost_per_token": 2e-06, "range": [256000.0, 1000000.0]}]},
        "dall-e-3": {"litellm_provider": "openai", "output_cost_per_image": 0.04},
        "house-model": {"input_cost_per_token": 0.0000001, "output_cost_per_token": null}
    }"#;

    fn prices() -> Prices {
        Prices::parse(TABLE.as_bytes()).unwrap()
    }

    /// A call as it is seen on the wire.
    fn call(host: &str, path: &str, request: &Value, answer: &Value) -> LlmCall {
        let mut connection = Connection::new(Options::default());
        let (request, answer) = (request.to_string(), answer.to_string());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{request}",
            request.len()
        );
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        );
        let mut calls = Vec::new();
        for (direction, bytes) in [(Direction::Sent, &request), (Direction::Received, &answer)] {
            let chunk = Chunk {
                direction,
                offset: 0,
                at: Timestamp(0),
                origin: Origin(0),
                bytes: bytes.as_bytes(),
            };
            connection.data(chunk, &mut |event| {
                if let CallEvent::Ended { record, .. } = event {
                    calls.push(*record);
                }
            });
        }
        calls.remove(0)
    }

    fn openai(host: &str, model: &str, tier: Option<&str>, usage: &Value) -> LlmCall {
        let mut request = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
        if let Some(tier) = tier {
            request["service_tier"] = tier.into();
        }
        let answer = json!({"object": "chat.completion", "model": model,
            "choices": [{"index": 0, "message": {"content": "Hi"}}], "usage": usage});
        call(host, "/v1/chat/completions", &request, &answer)
    }

    fn anthropic(usage: &Value) -> LlmCall {
        claude("claude-sonnet-4-5-20250929", usage)
    }

    fn claude(model: &str, usage: &Value) -> LlmCall {
        let request = json!({"model": model, "max_tokens": 9,
            "messages": [{"role": "user", "content": "Hi"}]});
        let answer = json!({"type": "message", "id": "msg_1", "model": model,
            "content": [], "usage": usage});
        call("api.anthropic.com", "/v1/messages", &request, &answer)
    }

    fn converse(usage: &Value) -> LlmCall {
        let request = json!({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]});
        let answer = json!({"output": {"message": {"role": "assistant", "content": [{"text": "Hi"}]}},
            "stopReason": "end_turn", "usage": usage});
        call(
            "bedrock-runtime.us-east-1.amazonaws.com",
            "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse",
            &request,
            &answer,
        )
    }

    fn gemini(model: &str, usage: &Value) -> LlmCall {
        let request = json!({"contents": [{"parts": [{"text": "Hi"}]}]});
        let answer =
            json!({"candidates": [{"index": 0}], "usageMetadata": usage, "modelVersion": model});
        let path = format!("/v1beta/models/{model}:generateContent");
        call(
            "generativelanguage.googleapis.com",
            &path,
            &request,
            &answer,
        )
    }

    #[track_caller]
    fn assert_cost(call: &LlmCall, usd: Option<f64>) {
        assert_eq!(prices().cost(call), usd, "{call:#?}");
    }

    #[test]
    fn cached_input_has_a_price_of_its_own() {
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 100,
            "prompt_tokens_details": {"cached_tokens": 600}});
        // 400 at 2.5, 600 at 1.25 and 100 at 10 dollars the million.
        assert_cost(
            &openai("api.openai.com", "gpt-4o", None, &usage),
            Some(0.002_75),
        );
        // By the name without its date.
        assert_cost(
            &openai("api.openai.com", "gpt-4o-2024-08-06", None, &usage),
            Some(0.002_75),
        );
    }

    #[test]
    fn writes_to_a_cache_by_how_long_they_last() {
        let usage = json!({"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 1000,
            "cache_creation_input_tokens": 300,
            "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200}});
        // In millionths: 30 + 300 + 375 + 1200 + 300.
        assert_cost(&anthropic(&usage), Some(0.002_205));
        let usage = json!({"inputTokens": 10, "outputTokens": 20, "totalTokens": 330,
            "cacheWriteInputTokens": 300, "cacheReadInputTokens": 0,
            "cacheDetails": [{"ttl": "5m", "inputTokens": 100}, {"ttl": "1h", "inputTokens": 200}]});
        // In millionths: 33 + 412.5 + 1320 + 330.
        assert_cost(&converse(&usage), Some(0.002_095_5));
    }

    #[test]
    fn long_input_makes_all_of_it_dearer() {
        for (input, usd) in [(200_000, 0.26), (200_001, 0.515_002_5)] {
            let usage = json!({"promptTokenCount": input, "candidatesTokenCount": 1000,
                "totalTokenCount": input + 1000});
            assert_cost(&gemini("gemini-2.5-pro", &usage), Some(usd));
        }
        // What is read from the cache is part of the input.
        let usage =
            json!({"input_tokens": 1, "output_tokens": 0, "cache_read_input_tokens": 200_000});
        assert_cost(&anthropic(&usage), Some(0.120_006));
    }

    #[test]
    fn reasoning_sound_and_images_have_prices_of_their_own() {
        let usage = json!({"promptTokenCount": 10, "candidatesTokenCount": 20,
            "thoughtsTokenCount": 100, "totalTokenCount": 130});
        // In millionths: 3 + 50 + 350.
        assert_cost(&gemini("gemini-2.5-flash", &usage), Some(0.000_403));
        let usage = json!({"promptTokenCount": 30, "candidatesTokenCount": 20, "totalTokenCount": 50,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}, {"modality": "AUDIO", "tokenCount": 20}],
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 15}]});
        // In millionths: 3 + 20 + 12.5 + 450.
        assert_cost(&gemini("gemini-2.5-flash", &usage), Some(0.000_485_5));
        let usage = json!({"prompt_tokens": 50, "completion_tokens": 60,
            "prompt_tokens_details": {"audio_tokens": 40},
            "completion_tokens_details": {"audio_tokens": 50}});
        // In millionths: 25 + 1600 + 100 + 4000.
        assert_cost(
            &openai("api.openai.com", "gpt-audio", None, &usage),
            Some(0.005_725),
        );
    }

    #[test]
    fn sound_and_images_from_a_cache_count_once() {
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 0,
            "prompt_tokens_details": {"text_tokens": 500, "audio_tokens": 500, "cached_tokens": 500,
                "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 500}}});
        // In millionths: 2000 + 150.
        assert_cost(
            &openai("api.openai.com", "gpt-realtime", None, &usage),
            Some(0.002_15),
        );
        // In the singular of the Realtime API: of text 100, 50 of them cached; of audio 200 and 150; of
        // images 300 and 250.
        let mut realtime = openai("api.openai.com", "gpt-realtime", None, &usage);
        realtime.cached_tokens = Some(450);
        realtime.audio_input_tokens = Some(200);
        (realtime.input_tokens, realtime.output_tokens) = (Some(600), Some(10));
        let usage = json!({"input_tokens": 600, "output_tokens": 10,
            "input_token_details": {"text_tokens": 100, "audio_tokens": 200, "image_tokens": 300,
                "cached_tokens": 450,
                "cached_tokens_details": {"text_tokens": 50, "audio_tokens": 150, "image_tokens": 250}},
            "output_token_details": {"text_tokens": 4, "audio_tokens": 6}});
        realtime.usage = usage.as_object().cloned();
        // In millionths: 200 + 20 + 1600 + 45 + 250 + 125 + 64 + 384.
        assert_cost(&realtime, Some(0.002_688));
        let usage = json!({"promptTokenCount": 100, "candidatesTokenCount": 0, "totalTokenCount": 100,
            "cachedContentTokenCount": 60,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 50}, {"modality": "AUDIO", "tokenCount": 50}],
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 20}, {"modality": "AUDIO", "tokenCount": 40}]});
        // In millionths: 9 + 0.6 + 10 + 4.
        assert_cost(&gemini("gemini-2.5-flash", &usage), Some(0.000_023_6));
        // More from the cache than there was.
        let usage = json!({"prompt_tokens": 10, "completion_tokens": 0,
            "prompt_tokens_details": {"audio_tokens": 5, "cached_tokens": 8,
                "cached_tokens_details": {"audio_tokens": 9}}});
        assert_cost(
            &openai("api.openai.com", "gpt-realtime", None, &usage),
            Some(0.000_010_4),
        );
    }

    #[test]
    fn the_tier_of_service_counts() {
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 100});
        for (tier, usd) in [
            ("auto", Some(0.003_5)),
            ("default", Some(0.003_5)),
            ("batch", Some(0.001_75)),
            ("priority", Some(0.005_95)),
            // Not in the table, and not known.
            ("flex", None),
            ("scale", None),
        ] {
            assert_cost(&openai("api.openai.com", "gpt-4o", Some(tier), &usage), usd);
        }
        // What the answer says is what counts.
        for (asked, answered, usd) in [
            (Some("priority"), "default", Some(0.003_5)),
            (Some("priority"), "standard", Some(0.003_5)),
            (Some("auto"), "priority", Some(0.005_95)),
            (None, "priority", Some(0.005_95)),
            (None, "flex", None),
        ] {
            let mut call = openai("api.openai.com", "gpt-4o", asked, &usage);
            call.service_tier = Some(answered.to_owned());
            assert_cost(&call, usd);
        }
    }

    #[test]
    fn where_and_how_fast_it_was_served_multiplies_the_prices() {
        for (geo, speed, usd) in [
            (json!("us"), json!("standard"), Some(0.008_25)),
            (json!("global"), json!("fast"), Some(0.015)),
            (json!("us"), json!("fast"), Some(0.016_5)),
            (json!("not_available"), json!(null), Some(0.007_5)),
            (json!("eu"), json!("standard"), None),
        ] {
            let usage = json!({"input_tokens": 1000, "output_tokens": 100,
                "inference_geo": geo, "speed": speed});
            assert_cost(&claude("claude-opus-4-8", &usage), usd);
        }
        // The entry has no such factors.
        let usage = json!({"input_tokens": 1000, "output_tokens": 100, "speed": "fast"});
        assert_cost(&anthropic(&usage), None);
    }

    #[test]
    fn providers_have_other_names_in_the_table() {
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 0});
        for (host, model, usd) in [
            ("api.friendli.ai", "m", 0.001),
            ("api.lambda.ai", "m", 0.002),
            ("api.featherless.ai", "m", 0.003),
            ("ai-gateway.vercel.sh", "m", 0.004),
            ("api.meta.ai", "m", 0.005),
            ("api.llama.com", "n", 0.006),
        ] {
            assert_cost(&openai(host, model, None, &usage), Some(usd));
        }
    }

    #[test]
    fn a_price_is_that_of_who_serves_it() {
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 1000});
        for (host, model, usd) in [
            ("api.groq.com", "llama-3.1-8b-instant", Some(0.000_13)),
            ("acme.openai.azure.com", "gpt-4o", Some(0.013_75)),
            // Another provider's model of this name.
            ("api.together.xyz", "gpt-4o", None),
            ("api.openai.com", "gpt-9", None),
            ("api.openai.com", "dall-e-3", None),
            (
                "api.openai.com",
                "ft:gpt-4o-2024-08-06:acme::x1",
                Some(0.018_75),
            ),
            ("api.openai.com", "", None),
        ] {
            assert_cost(&openai(host, model, None, &usage), usd);
        }
    }

    #[test]
    fn a_model_has_one_price_wherever_in_the_world_it_is() {
        let call =
            converse(&json!({"inputTokens": 1000, "outputTokens": 100, "totalTokens": 1100}));
        // In millionths: 3300 + 1650.
        assert_cost(&call, Some(0.004_95));
    }

    #[test]
    fn what_was_not_counted_has_no_cost() {
        for usage in [
            json!(null),
            json!({"prompt_tokens": 10}),
            json!({"completion_tokens": 10}),
        ] {
            assert_cost(&openai("api.openai.com", "gpt-4o", None, &usage), None);
        }
        let nothing = json!({"prompt_tokens": 0, "completion_tokens": 0});
        assert_cost(
            &openai("api.openai.com", "gpt-4o", None, &nothing),
            Some(0.0),
        );
        // Nothing but the input costs.
        let usage = json!({"prompt_tokens": 1000});
        let call = openai("api.openai.com", "text-embedding-3-small", None, &usage);
        assert_cost(&call, Some(0.000_02));
        // The output has no price, so it must not be there.
        let call = openai("localhost", "house-model", None, &usage);
        assert_cost(&call, Some(0.000_1));
        let usage = json!({"prompt_tokens": 1000, "completion_tokens": 1});
        assert_cost(&openai("localhost", "house-model", None, &usage), None);
    }

    #[test]
    fn sums_are_decimal() {
        // 0.1 + 0.2 in binary is not 0.3.
        let table = r#"{"m": {"input_cost_per_token": 0.1, "output_cost_per_token": 0.2,
            "cache_read_input_token_cost": 1.5000000000000002e-07}}"#;
        let prices = Prices::parse(table.as_bytes()).unwrap();
        let one = json!({"prompt_tokens": 1, "completion_tokens": 1});
        assert_eq!(
            prices.cost(&openai("api.openai.com", "m", None, &one)),
            Some(0.3)
        );
        let many = json!({"prompt_tokens": u64::MAX, "completion_tokens": u64::MAX});
        let cost = prices.cost(&openai("api.openai.com", "m", None, &many));
        assert_eq!(cost, Some(5.534_023_222_112_865e18));
        // More decimals than fit are rounded.
        let prices =
            |text: &str| price(&serde_json::from_str(text).unwrap()).map(|usd| usd.to_string());
        for (text, usd) in [
            (
                "0.12345678901234567890123456785",
                "0.1234567890123456789012345679",
            ),
            ("1.2345678901234567e-20", "0.0000000000000000000123456789"),
            (
                "0.00000000000000000000000000000000000001",
                "0.0000000000000000000000000000",
            ),
            ("6e-29", "0.0000000000000000000000000001"),
            ("1e-999999999999", "0.0000000000000000000000000000"),
            ("2.50E+2", "250"),
            ("1.25e1", "12.5"),
            ("0e99", "0"),
        ] {
            assert_eq!(prices(text).as_deref(), Some(usd), "{text}");
        }
        // Hostile counts may not fit.
        let table = r#"{"m": {"input_cost_per_token": 1e27}}"#;
        let prices = Prices::parse(table.as_bytes()).unwrap();
        let many = json!({"prompt_tokens": u64::MAX});
        assert_eq!(
            prices.cost(&openai("api.openai.com", "m", None, &many)),
            None
        );
    }

    #[test]
    fn names_get_shorter() {
        let all = |mut name: &'static str| {
            let mut names = Vec::new();
            while let Some(next) = shorter(name) {
                names.push(next);
                name = next;
            }
            names
        };
        assert_eq!(
            all("us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
            [
                "anthropic.claude-sonnet-4-5-20250929-v1:0",
                "anthropic.claude-sonnet-4-5-20250929",
                "anthropic.claude-sonnet-4-5"
            ]
        );
        assert_eq!(
            all("publishers/anthropic/models/claude-opus-4@20250514"),
            ["claude-opus-4@20250514", "claude-opus-4"]
        );
        assert_eq!(all("gpt-4o-2024-08-06"), ["gpt-4o"]);
        for name in [
            "gpt-4o",
            "deepseek-v3",
            "é-2024-08-06x",
            "-20240101",
            "",
            "models",
        ] {
            let names = all(name);
            assert!(
                names.is_empty() || names == ["deepseek"],
                "{name}: {names:?}"
            );
        }
    }

    #[test]
    fn a_bad_table_is_refused_with_the_place() {
        let error = |text: &str| format!("{:#}", Prices::parse(text.as_bytes()).unwrap_err());
        assert!(error("{\n  \"gpt-4o\": {,").contains("line 2 column"));
        assert!(error("[]").contains("no JSON object of models"));
        assert!(error(r#"{"m": {"input_cost_per_token": 1}} x"#).contains("trailing characters"));
        assert!(error(r#"{"m": {"mode": }"#).starts_with(r#""m": expected value at line 1"#));
        assert_eq!(
            error(r#"{"gpt-4o": 3}"#),
            r#""gpt-4o": invalid type: integer `3`, expected an object at line 1 column 12"#
        );
        for price in ["\"2.5e-06\"", "-1", "true", "1e99"] {
            let table = format!(r#"{{"gpt-4o": {{"input_cost_per_token_flex": {price}}}}}"#);
            let error = error(&table);
            assert!(
                error.starts_with(r#""gpt-4o": input_cost_per_token_flex: "#)
                    && error.ends_with(" is no price"),
                "{error}"
            );
        }
        let table = r#"{"m": {"tiered_pricing": [{"range": ["a"], "input_cost_per_token": 1}]}}"#;
        assert_eq!(
            error(table),
            r#""m": tiered_pricing[0]: range: ["a"] does not begin with a number of tokens"#
        );
        assert!(error(r#"{"gpt-4o": {"promptPrice": 0.0025}}"#).contains("input_cost_per_token"));
        let nowhere = format!("{:#}", Prices::read(Path::new("/nowhere")).unwrap_err());
        assert!(
            nowhere.contains("cannot take prices from /nowhere: No such file"),
            "{nowhere}"
        );
    }
}
