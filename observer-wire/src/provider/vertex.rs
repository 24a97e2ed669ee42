//! Paths of Vertex AI's REST (cloud.google.com/vertex-ai/docs/reference/rest), which has models of many
//! publishers, each in its own format.

use super::percent;

/// What a path asks of a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    /// `google`, `anthropic`, `mistralai`, ….
    pub(super) publisher: &'a str,
    pub(super) model: String,
    /// `generateContent`, `rawPredict`, ….
    pub(super) verb: &'a str,
}

/// Publishers whose format is OpenAI's where the request is passed on as it is.
const LIKE_OPENAI: &[&str] = &["ai21", "deepseek-ai", "meta", "mistralai", "openai", "qwen"];

impl<'a> Asked<'a> {
    /// Reads `…/publishers/PUBLISHER/models/MODEL:VERB`.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let (resource, verb) = path.rsplit_once(':')?;
        let (_, rest) = resource.rsplit_once("/publishers/")?;
        let (publisher, model) = rest.split_once("/models/")?;
        (!model.contains('/')).then(|| Self {
            publisher,
            model: percent::decoded(model),
            verb,
        })
    }

    /// The model, if the request is passed on to it as it is.
    fn passed_on(self) -> Option<String> {
        matches!(self.verb, "rawPredict" | "streamRawPredict").then_some(self.model)
    }
}

/// Whether it is a path of Vertex AI and not of the Gemini API.
pub(super) fn is_path(path: &str) -> bool {
    path.contains("/publishers/") || path.contains("/projects/")
}

/// The model of a request in Anthropic's format.
pub(super) fn anthropic(path: &str) -> Option<String> {
    Asked::of(path)
        .filter(|asked| asked.publisher == "anthropic" && asked.model != "count-tokens")?
        .passed_on()
}

/// The model of a request in OpenAI's format.
pub(super) fn openai(path: &str) -> Option<String> {
    Asked::of(path)
        .filter(|asked| LIKE_OPENAI.contains(&asked.publisher))?
        .passed_on()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_publisher_and_model() {
        const PLACE: &str = "/v1/projects/p/locations/europe-west1";
        let model = "claude-sonnet-4-5@20250929";
        for verb in ["rawPredict", "streamRawPredict"] {
            let path = format!("{PLACE}/publishers/anthropic/models/{model}:{verb}");
            assert_eq!(anthropic(&path).as_deref(), Some(model));
            assert_eq!(openai(&path), None);
            let path = format!("{PLACE}/publishers/mistralai/models/codestral-2501:{verb}");
            assert_eq!(openai(&path).as_deref(), Some("codestral-2501"));
            assert_eq!(anthropic(&path), None);
        }
        for path in [
            format!("{PLACE}/publishers/anthropic/models/count-tokens:rawPredict"),
            format!("{PLACE}/publishers/anthropic/models/{model}:predict"),
            format!("{PLACE}/publishers/anthropic/models/a/b:rawPredict"),
            format!("{PLACE}/endpoints/1:rawPredict"),
            "/v1/messages".to_owned(),
            ":".to_owned(),
        ] {
            assert_eq!(anthropic(&path), None, "{path}");
        }
        let express = Asked::of("/v1/publishers/google/models/gemini%2D2.5:generateContent");
        assert_eq!(
            express.map(|asked| asked.model).as_deref(),
            Some("gemini-2.5")
        );
    }
}
