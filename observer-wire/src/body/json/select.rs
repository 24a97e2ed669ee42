//! What a reader of JSON wants of a document.

use std::fmt;

use serde_json::Value;

/// What is kept of a value.
#[derive(Clone, Copy, Debug)]
pub enum Select {
    /// The value with all that is in it.
    All,
    /// These elements of an array, and of each this; nothing if it is no array.
    Array(Keep, &'static Select),
    /// Either of two forms.
    Either(&'static Select, &'static Select),
    /// How long a string, object or array is: a number stands for it. It is that of the bytes of an object or
    /// array, and of a string without quotes and escapes. Nothing of it is stored.
    Length,
    /// Whether there is anything in a string, array or object: true or false stands for it. Nothing of
    /// it is stored.
    Mark,
    /// These members of an object, and of each this; nothing if it is no object.
    Object(&'static [(&'static str, Select)]),
    /// A string, number, true, false or null; nothing if it is an object or an array.
    Scalar,
}

/// Which elements of an array are kept.
#[derive(Clone, Copy)]
pub enum Keep {
    /// All.
    All,
    /// The first, and of the others the last of this number for which the function holds.
    Ends(usize, fn(&Value) -> bool),
    /// The first of this number.
    First(usize),
    /// The last of this number.
    Last(usize),
}

/// Bounds of what is kept of a document.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Code points of a string; the rest of it is cut off.
    pub string_chars: usize,
    /// Bytes that are kept of each array, or of each of the last elements of one, and of each value
    /// that is kept as a whole, roughly. Beyond it nothing more of it is.
    pub kept_bytes: usize,
}

impl Select {
    /// The members of an object.
    pub(crate) const fn members(&self) -> &'static [(&'static str, Select)] {
        match self {
            Self::Object(members) => members,
            _ => &[],
        }
    }

    /// The members of several objects as those of one. Of members of one name the first counts. `N` is how
    /// many there are.
    pub(crate) const fn joined<const N: usize>(
        objects: &[&'static [(&'static str, Select)]],
    ) -> [(&'static str, Select); N] {
        let mut joined = [("", Self::Mark); N];
        let mut count = 0;
        let mut object = 0;
        while object < objects.len() {
            let members = objects[object];
            let mut member = 0;
            while member < members.len() {
                joined[count] = members[member];
                count += 1;
                member += 1;
            }
            object += 1;
        }
        assert!(count == N);
        joined
    }

    /// What is selected of a member of an object.
    pub(in crate::body) fn member(&self, name: &str) -> Option<&'static Select> {
        match self {
            Self::Object(members) => members
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, select)| select),
            Self::Either(one, other) => one.member(name).or_else(|| other.member(name)),
            Self::All | Self::Array(..) | Self::Length | Self::Mark | Self::Scalar => None,
        }
    }

    pub(in crate::body) fn takes_scalars(&self) -> bool {
        match self {
            Self::All | Self::Scalar => true,
            Self::Either(one, other) => one.takes_scalars() || other.takes_scalars(),
            Self::Array(..) | Self::Length | Self::Mark | Self::Object(_) => false,
        }
    }

    pub(in crate::body) fn is_mark(&self) -> bool {
        match self {
            Self::Mark => true,
            Self::Either(one, other) => one.is_mark() || other.is_mark(),
            Self::All | Self::Array(..) | Self::Length | Self::Object(_) | Self::Scalar => false,
        }
    }

    pub(in crate::body) fn is_length(&self) -> bool {
        match self {
            Self::Length => true,
            Self::Either(one, other) => one.is_length() || other.is_length(),
            Self::All | Self::Array(..) | Self::Mark | Self::Object(_) | Self::Scalar => false,
        }
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("All"),
            Self::Ends(count, _) => write!(f, "Ends({count})"),
            Self::First(count) => write!(f, "First({count})"),
            Self::Last(count) => write!(f, "Last({count})"),
        }
    }
}
