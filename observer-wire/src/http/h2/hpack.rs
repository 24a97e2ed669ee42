//! Decoding header blocks (HPACK, RFC 7541).
//!
//! A decoder may begin, or go on after a loss, without the dynamic table that its encoder has: what it
//! knows then grows again with every field that is added, and a reference to what it does not know is a
//! field without a name or without a value. The decoders that exist as crates treat that as an error.

use std::{collections::VecDeque, fmt, sync::Arc};

use super::huffman;

/// Largest dynamic table that is kept, in bytes as section 4.1 counts them; browsers use up to 64 KiB.
/// Older entries than fit are unknown.
const TABLE_BYTES: usize = 64 * 1024;

/// Size of the table before anybody says something else (RFC 9113 section 6.5.2).
const INITIAL_BYTES: usize = 4096;

/// What an entry counts beside its text (section 4.1).
const ENTRY_BYTES: usize = 32;

/// A field; what is not known is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name, in lower case.
    pub name: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// A block that says nothing from some place on. The decoder does not know its table any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The state of one direction.
pub struct Decoder {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
    /// Whether entries are known from the first one on.
    complete: bool,
    name: Vec<u8>,
    value: Vec<u8>,
}

struct Entry {
    name: Name,
    /// Of an entry that repeats one that is unknown, neither is known.
    value: Arc<[u8]>,
}

#[derive(Clone)]
enum Name {
    Shared(Arc<[u8]>),
    Static(&'static [u8]),
    Unknown,
}

impl Default for Decoder {
    /// At the beginning of a connection.
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            limit: INITIAL_BYTES,
            complete: true,
            name: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Decoder {
    /// In the middle of a connection.
    pub fn joined() -> Self {
        Self {
            limit: TABLE_BYTES,
            complete: false,
            ..Self::default()
        }
    }

    /// Blocks are missing.
    pub fn forget(&mut self) {
        *self = Self::joined();
    }

    /// Hands over the fields of a block, in order.
    pub fn decode(
        &mut self,
        block: &[u8],
        field: &mut dyn FnMut(Field<'_>),
    ) -> Result<(), Malformed> {
        let result = self.read(block, field);
        if result.is_err() {
            self.forget();
        }
        result
    }

    /// Bytes held, roughly.
    pub fn memory(&self) -> usize {
        self.size
            + self.entries.capacity() * size_of::<Entry>()
            + self.name.capacity()
            + self.value.capacity()
    }

    fn read(
        &mut self,
        mut block: &[u8],
        field: &mut dyn FnMut(Field<'_>),
    ) -> Result<(), Malformed> {
        while let Some(&first) = block.first() {
            match first {
                // An indexed field (section 6.1).
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    let (name, value) = self.entry(index)?;
                    field(Field { name, value });
                }
                // A literal that is added to the table (section 6.2.1).
                0x40.. => {
                    let index = integer(&mut block, 6)?;
                    let name = self.literal(index, &mut block)?;
                    field(Field {
                        name: name.as_deref(),
                        value: Some(&self.value),
                    });
                    self.add(name);
                }
                // A new size of the table (section 6.3).
                0x20.. => {
                    let size = integer(&mut block, 5)?;
                    self.limit = size.min(TABLE_BYTES);
                    self.complete &= size <= TABLE_BYTES;
                    self.evict(0);
                }
                // A literal that is not added (sections 6.2.2 and 6.2.3).
                _ => {
                    let index = integer(&mut block, 4)?;
                    let name = self.literal(index, &mut block)?;
                    field(Field {
                        name: name.as_deref(),
                        value: Some(&self.value),
                    });
                }
            }
        }
        Ok(())
    }

    /// Name and value of an entry of either table.
    #[expect(clippy::type_complexity, reason = "a pair of what may be unknown")]
    fn entry(&self, index: usize) -> Result<(Option<&[u8]>, Option<&[u8]>), Malformed> {
        let place = index.checked_sub(1).ok_or(Malformed)?;
        if let Some((name, value)) = STATIC.get(place) {
            return Ok((Some(name.as_bytes()), Some(value.as_bytes())));
        }
        match self.entries.get(place - STATIC.len()) {
            Some(entry) => Ok((entry.name.as_deref(), Some(&entry.value))),
            None if self.complete => Err(Malformed),
            None => Ok((None, None)),
        }
    }

    /// Reads a literal: the name is that of the entry, or follows; the value is put into `self.value`.
    fn literal(&mut self, index: usize, block: &mut &[u8]) -> Result<Name, Malformed> {
        let name = if index == 0 {
            string(block, &mut self.name)?;
            Name::Shared(self.name.as_slice().into())
        } else if let Some((name, _)) = STATIC.get(index - 1) {
            Name::Static(name.as_bytes())
        } else {
            match self.entries.get(index - 1 - STATIC.len()) {
                Some(entry) => entry.name.clone(),
                None if self.complete => return Err(Malformed),
                None => Name::Unknown,
            }
        };
        string(block, &mut self.value)?;
        Ok(name)
    }

    /// Adds the literal that was read.
    fn add(&mut self, name: Name) {
        let entry = Entry {
            name,
            value: self.value.as_slice().into(),
        };
        let size = entry.size();
        self.evict(size);
        // One that is larger than the table empties it (section 4.4).
        if size <= self.limit {
            self.size += size;
            self.entries.push_front(entry);
        }
    }

    /// Makes room.
    fn evict(&mut self, size: usize) {
        while self.size + size > self.limit {
            let Some(entry) = self.entries.pop_back() else {
                return;
            };
            self.size -= entry.size();
        }
    }
}

impl fmt::Debug for Decoder {
    // The table holds credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("entries", &self.entries.len())
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}

impl Entry {
    fn size(&self) -> usize {
        let name = self.name.as_deref().map_or(0, <[u8]>::len);
        name + self.value.len() + ENTRY_BYTES
    }
}

impl Name {
    fn as_deref(&self) -> Option<&[u8]> {
        match self {
            Self::Shared(name) => Some(name),
            Self::Static(name) => Some(name),
            Self::Unknown => None,
        }
    }
}

/// Takes a number whose first byte has `prefix` bits for it (section 5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let (&first, mut rest) = block.split_first().ok_or(Malformed)?;
    let full = (1_usize << prefix) - 1;
    let mut value = usize::from(first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (&byte, tail) = rest.split_first().ok_or(Malformed)?;
            rest = tail;
            // 28 bits are far more than any block has.
            if shift > 21 {
                return Err(Malformed);
            }
            value += (usize::from(byte) & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// Takes a string (section 5.2) into `text`.
fn string(block: &mut &[u8], text: &mut Vec<u8>) -> Result<(), Malformed> {
    let is_huffman = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (string, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    text.clear();
    if is_huffman {
        huffman::decode(string, text).ok_or(Malformed)
    } else {
        text.extend_from_slice(string);
        Ok(())
    }
}

/// The static table (RFC 7541 appendix A), from index 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<(Option<String>, Option<String>)>;

    fn text(bytes: Option<&[u8]>) -> Option<String> {
        bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn decode(decoder: &mut Decoder, block: &str) -> Result<Fields, Malformed> {
        let digits: Vec<u8> = block
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        let block: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let mut fields = Vec::new();
        decoder.decode(&block, &mut |field| {
            fields.push((text(field.name), text(field.value)));
        })?;
        Ok(fields)
    }

    fn known(fields: &[(&str, &str)]) -> Fields {
        fields
            .iter()
            .map(|(name, value)| (Some((*name).to_owned()), Some((*value).to_owned())))
            .collect()
    }

    /// A block, its fields, and the size of the table after it.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

    /// Each block in turn.
    fn check(mut decoder: Decoder, blocks: &[Case<'_>]) {
        for (block, fields, size) in blocks {
            assert_eq!(decode(&mut decoder, block), Ok(known(fields)), "{block}");
            assert_eq!(decoder.size, *size, "{block}");
        }
    }

    #[test]
    fn numbers_of_appendix_c_1() {
        for (bytes, prefix, value) in [
            (&[0x0a][..], 5, 10),
            (&[0x1f, 0x9a, 0x0a], 5, 1337),
            (&[0x2a], 8, 42),
        ] {
            let mut block = bytes;
            assert_eq!(integer(&mut block, prefix), Ok(value));
            assert!(block.is_empty());
        }
    }

    #[test]
    fn fields_of_appendix_c_2() {
        check(
            Decoder::default(),
            &[
                (
                    "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
                    &[("custom-key", "custom-header")],
                    55,
                ),
                (
                    "040c 2f73 616d 706c 652f 7061 7468",
                    &[(":path", "/sample/path")],
                    55,
                ),
                (
                    "1008 7061 7373 776f 7264 0673 6563 7265 74",
                    &[("password", "secret")],
                    55,
                ),
                ("82", &[(":method", "GET")], 55),
            ],
        );
    }

    const FIRST: &[(&str, &str)] = &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];
    const SECOND: &[(&str, &str)] = &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ];
    const THIRD: &[(&str, &str)] = &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];

    #[test]
    fn requests_of_appendix_c_3() {
        check(
            Decoder::default(),
            &[
                (
                    "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                    FIRST,
                    57,
                ),
                ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND, 110),
                (
                    "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                    THIRD,
                    164,
                ),
            ],
        );
    }

    #[test]
    fn requests_with_huffman_coding_of_appendix_c_4() {
        check(
            Decoder::default(),
            &[
                ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST, 57),
                ("8286 84be 5886 a8eb 1064 9cbf", SECOND, 110),
                (
                    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                    THIRD,
                    164,
                ),
            ],
        );
    }

    const REDIRECTED: &[(&str, &str)] = &[
        (":status", "302"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ];
    const AGAIN: &[(&str, &str)] = &[
        (":status", "307"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ];
    const ANSWERED: &[(&str, &str)] = &[
        (":status", "200"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        ("location", "https://www.example.com"),
        ("content-encoding", "gzip"),
        (
            "set-cookie",
            "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        ),
    ];

    fn small() -> Decoder {
        Decoder {
            limit: 256,
            ..Decoder::default()
        }
    }

    #[test]
    fn responses_with_eviction_of_appendix_c_5() {
        check(
            small(),
            &[
                (
                    "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230
                     3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65
                     7861 6d70 6c65 2e63 6f6d",
                    REDIRECTED,
                    222,
                ),
                ("4803 3330 37c1 c0bf", AGAIN, 222),
                (
                    "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220
                     474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157
                     454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076
                     6572 7369 6f6e 3d31",
                    ANSWERED,
                    215,
                ),
            ],
        );
    }

    #[test]
    fn responses_with_huffman_coding_and_eviction_of_appendix_c_6() {
        check(
            small(),
            &[
                (
                    "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0
                     82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                    REDIRECTED,
                    222,
                ),
                ("4883 640e ffc1 c0bf", AGAIN, 222),
                (
                    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b
                     d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27
                     0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                    ANSWERED,
                    215,
                ),
            ],
        );
    }

    #[test]
    fn a_table_that_was_not_seen_is_learnt_again() {
        let mut decoder = Decoder::joined();
        let unknown = (None, None);
        // An index of before, a literal with the name of one, and one that is added.
        assert_eq!(
            decode(&mut decoder, "82 be 7f01 0161 41 0162"),
            Ok(vec![
                (Some(":method".to_owned()), Some("GET".to_owned())),
                unknown.clone(),
                (None, Some("a".to_owned())),
                (Some(":authority".to_owned()), Some("b".to_owned())),
            ])
        );
        assert_eq!(
            decode(&mut decoder, "be bf c0"),
            Ok(vec![
                (Some(":authority".to_owned()), Some("b".to_owned())),
                (None, Some("a".to_owned())),
                unknown,
            ])
        );
    }

    #[test]
    fn what_is_malformed_is_said_and_the_table_forgotten() {
        for block in [
            "80",             // index 0
            "be",             // beyond the table
            "7f",             // a number that is cut
            "3f",             // the same, of a size
            "ffffffffffff7f", // a number without end
            "0005",           // a string that is cut
            "00 81 00 00",    // no Huffman code
        ] {
            let mut decoder = Decoder::default();
            assert_eq!(decode(&mut decoder, block), Err(Malformed), "{block}");
            assert!(decode(&mut decoder, "be").is_ok(), "{block}");
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let mut decoder = Decoder::default();
        // A table of 2^27 bytes is asked for.
        decode(&mut decoder, "3fe1ffff3f").unwrap();
        let value = "61".repeat(100);
        for _ in 0..2000 {
            decode(&mut decoder, &format!("400161 64{value}")).unwrap();
        }
        assert!(decoder.size <= TABLE_BYTES);
        assert!(decoder.memory() < 3 * TABLE_BYTES);
        assert_eq!(decode(&mut decoder, "ffff07"), Ok(vec![(None, None)]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20), joined: bool) {
            let mut decoder = if joined { Decoder::joined() } else { Decoder::default() };
            for block in blocks {
                let _ = decoder.decode(&block, &mut |_| ());
                prop_assert!(decoder.size <= decoder.limit && decoder.limit <= TABLE_BYTES);
            }
        }
    }
}
