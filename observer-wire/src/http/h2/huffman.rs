//! The Huffman code of HPACK (RFC 7541 appendix B).

/// Length of the code of each byte, in bits. The code is canonical: the codes of one length are
/// consecutive numbers in the order of their bytes, and a longer one goes on where a shorter one ended.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Longest code, in bits; also that of the end of the string.
const LONGEST: usize = 30;

/// Shortest code, in bits.
const SHORTEST: usize = 5;

/// The code by lengths, and its bytes in the order of their codes.
struct Code {
    /// The first code of each length.
    first: [u32; LONGEST + 1],
    /// How many codes are shorter.
    before: [u16; LONGEST + 1],
    /// How many codes have this length.
    count: [u16; LONGEST + 1],
    bytes: [u8; 256],
}

static CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let mut code = Self {
            first: [0; LONGEST + 1],
            before: [0; LONGEST + 1],
            count: [0; LONGEST + 1],
            bytes: [0; 256],
        };
        let (mut next, mut placed, mut length) = (0_u32, 0_usize, 1);
        while length <= LONGEST {
            next <<= 1;
            code.first[length] = next;
            #[expect(clippy::cast_possible_truncation, reason = "256 at most")]
            {
                code.before[length] = placed as u16;
            }
            let mut byte = 0;
            while byte < 256 {
                if LENGTHS[byte] as usize == length {
                    #[expect(clippy::cast_possible_truncation, reason = "255 at most")]
                    {
                        code.bytes[placed] = byte as u8;
                    }
                    code.count[length] += 1;
                    placed += 1;
                    next += 1;
                }
                byte += 1;
            }
            length += 1;
        }
        code
    }
}

/// Appends what a string says to `text`. `None` if it is no string of the code (section 5.2): it holds
/// the end of the string, or is padded by anything but up to seven bits that are set.
pub(super) fn decode(string: &[u8], text: &mut Vec<u8>) -> Option<()> {
    let (mut bits, mut held) = (0_u64, 0_usize);
    let mut input = string.iter();
    loop {
        while held <= 56 {
            let Some(byte) = input.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            held += 8;
        }
        let Some((byte, length)) = symbol(bits, held) else {
            let is_padding = held < 8 && bits.trailing_ones() as usize >= held;
            return is_padding.then_some(());
        };
        text.push(byte);
        held -= length;
    }
}

/// The byte whose code the last `held` bits begin with, and the code's length.
fn symbol(bits: u64, held: usize) -> Option<(u8, usize)> {
    (SHORTEST..=LONGEST.min(held)).find_map(|length| {
        #[expect(clippy::cast_possible_truncation, reason = "30 bits at most")]
        let code = (bits >> (held - length)) as u32 & ((1 << length) - 1);
        let index = code.checked_sub(CODE.first[length])?;
        if index >= u32::from(CODE.count[length]) {
            return None;
        }
        let place = usize::from(CODE.before[length]) + index as usize;
        Some((CODE.bytes[place], length))
    })
}

/// As `decode`, the other way round.
#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let (mut bits, mut held, mut string) = (0_u64, 0, Vec::new());
    for byte in text {
        let length = usize::from(LENGTHS[usize::from(*byte)]);
        let place = CODE.bytes[usize::from(CODE.before[length])..]
            .iter()
            .position(|other| other == byte)
            .unwrap();
        bits = bits << length | (u64::from(CODE.first[length]) + place as u64);
        held += length;
        while held >= 8 {
            held -= 8;
            string.push((bits >> held) as u8);
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        string.push((bits << (8 - held)) as u8 | (0xff >> held) as u8);
    }
    string
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(string: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        decode(string, &mut text).map(|()| text)
    }

    /// RFC 7541 appendix C.4 and C.6.
    #[test]
    fn strings_of_the_standard() {
        for (string, text) in [
            (
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x64, 0x02], "302"),
            (&[0x64, 0x0e, 0xff], "307"),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
        ] {
            assert_eq!(decoded(string).as_deref(), Some(text.as_bytes()));
            assert_eq!(encode(text.as_bytes()), string);
        }
    }

    /// The first and last codes of some lengths, as the table of appendix B has them.
    #[test]
    fn codes_of_the_table() {
        for (byte, code, length) in [
            (b'0', 0x0, 5),
            (b't', 0x9, 5),
            (b' ', 0x14, 6),
            (b':', 0x5c, 7),
            (b'&', 0xf8, 8),
            (b'!', 0x3f8, 10),
            (b'\\', 0x7fff0, 19),
            (0, 0x1ff8, 13),
            (10, 0x3fff_fffc, 30),
            (13, 0x3fff_fffd, 30),
            (22, 0x3fff_fffe, 30),
            (249, 0xfff_fffe, 28),
            (255, 0x3ff_ffee, 26),
        ] {
            assert_eq!(symbol(code, length), Some((byte, length)), "{byte}");
        }
    }

    #[test]
    fn what_is_no_string_is_refused() {
        // The end of the string, padding of zeros, and padding of eight bits.
        for string in [
            &[0xff, 0xff, 0xff, 0xff][..],
            &[0xff; 8],
            &[0x00],
            &[0x07, 0xff],
        ] {
            assert_eq!(decoded(string), None, "{string:x?}");
        }
        assert_eq!(decoded(&[]), Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&encode(&text)), Some(text));
        }
    }
}
