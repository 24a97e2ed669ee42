//! By which evidence calls are put into traces, if the user says so.

use clap::{
    ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

/// Leaves it to the evidence.
const AUTO: &str = "auto";

/// The one kind of evidence that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceBy {
    /// Calls of one conversation are one trace
    Conversation,
    /// Calls made while a request to the process is answered are one trace
    Inbound,
    /// Calls of one logical task and the tasks it started are one trace
    Task,
    /// Calls of one thread are one trace
    Thread,
    /// Calls that name the same trace in a `traceparent` field are one trace
    Traceparent,
}

/// `None` for `auto`. Under its own name, it is no optional argument to clap.
pub type Pinned = Option<TraceBy>;

/// Takes `auto`, which is no pinned kind, or the name of one.
pub fn parser() -> impl TypedValueParser<Value = Pinned> {
    let auto = PossibleValue::new(AUTO).help("The strongest evidence that there is counts");
    let kinds = TraceBy::value_variants()
        .iter()
        .filter_map(ValueEnum::to_possible_value);
    PossibleValuesParser::new([auto].into_iter().chain(kinds))
        .map(|name| TraceBy::from_str(&name, false).ok())
}
