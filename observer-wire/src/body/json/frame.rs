//! What is held of a document while it is read.

use serde_json::{Map, Value};

use super::select::{Keep, Select};

/// An object or array that is being kept.
pub(super) enum Frame {
    Array {
        keep: Keep,
        select: &'static Select,
        items: Vec<Value>,
    },
    Object {
        members: Members,
        /// Its members occur once in a document, so they are kept whatever else is.
        once: bool,
        key: Option<String>,
        map: Map<String, Value>,
    },
}

/// Which members of an object are kept.
#[derive(Clone, Copy)]
pub(super) enum Members {
    All,
    Named(&'static [(&'static str, Select)]),
}

impl Frame {
    /// The frame for an object or array that begins with `byte`, if one is selected. `once` says whether
    /// it occurs once in its document.
    pub(super) fn selected(select: &'static Select, byte: u8, once: bool) -> Option<Self> {
        let object = |members, once| Frame::Object {
            members,
            once,
            key: None,
            map: Map::new(),
        };
        match (select, byte) {
            (Select::All, b'[') => Some(Frame::Array {
                keep: Keep::All,
                select: &Select::All,
                items: Vec::new(),
            }),
            (Select::All, _) => Some(object(Members::All, false)),
            (Select::Array(keep, select), b'[') => Some(Frame::Array {
                keep: *keep,
                select,
                items: Vec::new(),
            }),
            (Select::Object(members), b'{') => Some(object(Members::Named(members), once)),
            (Select::Either(one, other), _) => {
                Self::selected(one, byte, once).or_else(|| Self::selected(other, byte, once))
            }
            _ => None,
        }
    }

    /// Takes a value in; returns the weight of its key, and that of what had to go for it.
    pub(super) fn add(&mut self, value: Value) -> (usize, usize) {
        match self {
            Self::Array { keep, items, .. } => {
                let first_to_go = match *keep {
                    Keep::All | Keep::First(_) => None,
                    Keep::Ends(_, holds) if !items.is_empty() && !holds(&value) => {
                        return (0, weight(&value));
                    }
                    Keep::Ends(count, _) => (items.len() > count).then_some(1),
                    Keep::Last(count) => (items.len() >= count).then_some(0),
                };
                items.push(value);
                (
                    0,
                    first_to_go.map_or(0, |index| weight(&items.remove(index))),
                )
            }
            Self::Object { key, map, .. } => {
                let Some(key) = key.take() else {
                    return (0, weight(&value));
                };
                let length = key.len();
                match map.insert(key, value) {
                    Some(former) => (0, weight(&former)),
                    None => (length, 0),
                }
            }
        }
    }

    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Array { items, .. } => Value::Array(items),
            Self::Object { map, .. } => Value::Object(map),
        }
    }
}

/// Bytes that a value holds, roughly.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::Array(items) => size_of::<Frame>() + items.iter().map(weight).sum::<usize>(),
        Value::Bool(_) | Value::Null => size_of::<Value>(),
        Value::Number(number) => size_of::<Value>() + number.as_str().len(),
        Value::Object(map) => {
            size_of::<Frame>()
                + map
                    .iter()
                    .map(|(key, value)| key.len() + weight(value))
                    .sum::<usize>()
        }
        Value::String(text) => size_of::<Value>() + text.len(),
    }
}
