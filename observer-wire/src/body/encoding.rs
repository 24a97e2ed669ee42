//! Content codings (RFC 9110 section 8.4), decoded as the bytes come.

use std::{fmt, io::Write as _};

use brotli::DecompressorWriter;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use zstd::stream::write::Decoder as ZstdDecoder;

/// Compressed bytes that are decoded at a time. Deflate grows by a factor of 1,032 at most, so this
/// bounds what a hostile body makes us hold.
const STEP_BYTES: usize = 256;

/// Largest window of zstd, as a power of two: 8 MiB, the limit for HTTP (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;

/// Buffer of the brotli decoder, in bytes.
const BROTLI_BUFFER: usize = 4096;

/// Most codings on top of each other.
const CODINGS: usize = 4;

/// Why a body cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes are not in the coding that the header says.
    Malformed,
    /// The coding is not known.
    Unsupported,
}

/// Decodes a body.
pub struct Decoder {
    /// Outermost coding first.
    coders: Vec<Coder>,
    failed: Option<Error>,
}

enum Coder {
    Brotli(Box<DecompressorWriter<Vec<u8>>>),
    /// `deflate` is zlib (RFC 9110), but some servers send raw deflate: the first two bytes tell.
    DeflateStart(Vec<u8>),
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    RawDeflate(Box<DeflateDecoder<Vec<u8>>>),
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
    Zstd(Box<ZstdDecoder<'static, Vec<u8>>>),
}

impl Decoder {
    /// A decoder for the value of `Content-Encoding`; empty for none.
    pub fn new(content_encoding: &str) -> Self {
        let mut coders = Vec::new();
        let mut failed = None;
        // Codings are listed in the order in which they were applied.
        for coding in content_encoding.split(',').rev() {
            let coding = coding.trim().to_ascii_lowercase();
            coders.push(match coding.as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Coder::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
                "deflate" => Coder::DeflateStart(Vec::new()),
                "br" => Coder::Brotli(Box::new(DecompressorWriter::new(Vec::new(), BROTLI_BUFFER))),
                "zstd" => match zstd() {
                    Some(decoder) => decoder,
                    None => {
                        failed = Some(Error::Unsupported);
                        break;
                    }
                },
                _ => {
                    failed = Some(Error::Unsupported);
                    break;
                }
            });
        }
        if coders.len() > CODINGS {
            failed = Some(Error::Unsupported);
        }
        Self { coders, failed }
    }

    /// Decodes the next bytes and hands over all that can be decoded so far, in bounded pieces.
    ///
    /// # Errors
    ///
    /// The body cannot be decoded from here on; the same error comes from then on.
    pub fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        decode(&mut self.coders, bytes, out).inspect_err(|error| self.failed = Some(*error))
    }

    /// Whether bytes are handed over as they are.
    pub fn is_identity(&self) -> bool {
        self.coders.is_empty() && self.failed.is_none()
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("codings", &self.coders.len())
            .field("failed", &self.failed)
            .finish()
    }
}

fn decode(coders: &mut [Coder], bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
    let Some((coder, rest)) = coders.split_first_mut() else {
        if !bytes.is_empty() {
            out(bytes);
        }
        return Ok(());
    };
    for piece in bytes.chunks(STEP_BYTES) {
        let mut decoded = coder.push(piece).map_err(|_| Error::Malformed)?;
        decode(rest, &decoded, out)?;
        decoded.clear();
        coder.recycle(decoded);
    }
    Ok(())
}

impl Coder {
    /// Decodes a piece and returns what came out of it.
    fn push(&mut self, piece: &[u8]) -> std::io::Result<Vec<u8>> {
        if let Self::DeflateStart(start) = self {
            start.extend_from_slice(piece);
            let [first, second, ..] = start[..] else {
                return Ok(Vec::new());
            };
            let start = std::mem::take(start);
            // RFC 1950 section 2.2: compression method 8 and a header that is a multiple of 31.
            let zlib = first & 0x0f == 8 && u16::from_be_bytes([first, second]) % 31 == 0;
            *self = if zlib {
                Self::Zlib(Box::new(ZlibDecoder::new(Vec::new())))
            } else {
                Self::RawDeflate(Box::new(DeflateDecoder::new(Vec::new())))
            };
            return self.push(&start);
        }
        macro_rules! through {
            ($decoder:expr) => {{
                $decoder.write_all(piece)?;
                // Also what is decoded and still buffered: a stream must not wait for its next event.
                $decoder.flush()?;
                Ok(std::mem::take($decoder.get_mut()))
            }};
        }
        match self {
            Self::Brotli(decoder) => through!(decoder),
            Self::DeflateStart(_) => Ok(Vec::new()),
            Self::Gzip(decoder) => through!(decoder),
            Self::RawDeflate(decoder) => through!(decoder),
            Self::Zlib(decoder) => through!(decoder),
            Self::Zstd(decoder) => through!(decoder),
        }
    }

    /// Gives the buffer back for the next piece.
    fn recycle(&mut self, buffer: Vec<u8>) {
        match self {
            Self::Brotli(decoder) => *decoder.get_mut() = buffer,
            Self::DeflateStart(_) => {}
            Self::Gzip(decoder) => *decoder.get_mut() = buffer,
            Self::RawDeflate(decoder) => *decoder.get_mut() = buffer,
            Self::Zlib(decoder) => *decoder.get_mut() = buffer,
            Self::Zstd(decoder) => *decoder.get_mut() = buffer,
        }
    }
}

fn zstd() -> Option<Coder> {
    let mut decoder = ZstdDecoder::new(Vec::new()).ok()?;
    decoder.window_log_max(ZSTD_WINDOW_LOG).ok()?;
    Some(Coder::Zstd(Box::new(decoder)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    const TEXT: &[u8] = "data: {\"text\":\"漢字 déjà vu 😀\"}\n\n".as_bytes();

    fn decoded(encoding: &str, bytes: &[u8], step: usize) -> Result<Vec<u8>, Error> {
        let mut decoder = Decoder::new(encoding);
        let mut out = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.push(piece, &mut |decoded| out.extend_from_slice(decoded))?;
        }
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn encoded(encoding: &str) -> Vec<u8> {
        match encoding {
            "gzip" | "x-gzip" => gzip(TEXT),
            "deflate" => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(TEXT).unwrap();
                encoder.finish().unwrap()
            }
            "br" => {
                let mut out = Vec::new();
                brotli::CompressorWriter::new(&mut out, 4096, 5, 20)
                    .write_all(TEXT)
                    .unwrap();
                out
            }
            "zstd" => zstd::encode_all(TEXT, 3).unwrap(),
            _ => TEXT.to_vec(),
        }
    }

    #[test]
    fn every_coding_is_decoded_at_any_split() {
        for encoding in ["", "identity", "gzip", "x-gzip", "deflate", "br", "zstd"] {
            let bytes = encoded(encoding);
            for step in [1, 2, 7, 1000] {
                assert_eq!(
                    decoded(encoding, &bytes, step).unwrap(),
                    TEXT,
                    "{encoding} by {step}"
                );
            }
        }
    }

    #[test]
    fn raw_deflate_passes_for_deflate() {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(TEXT).unwrap();
        assert_eq!(
            decoded("deflate", &encoder.finish().unwrap(), 1).unwrap(),
            TEXT
        );
    }

    #[test]
    fn several_gzip_members_are_one_body() {
        let twice = [gzip(TEXT), gzip(TEXT)].concat();
        assert_eq!(decoded("gzip", &twice, 3).unwrap(), [TEXT, TEXT].concat());
    }

    #[test]
    fn codings_are_undone_in_reverse_order() {
        let mut out = Vec::new();
        brotli::CompressorWriter::new(&mut out, 4096, 5, 20)
            .write_all(&gzip(TEXT))
            .unwrap();
        assert_eq!(decoded("gzip, br", &out, 5).unwrap(), TEXT);
    }

    #[test]
    fn a_flushed_event_comes_out_at_once() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(TEXT).unwrap();
        encoder.flush().unwrap();
        assert_eq!(decoded("gzip", encoder.get_ref(), 4096).unwrap(), TEXT);
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.write_all(TEXT).unwrap();
        encoder.flush().unwrap();
        assert_eq!(decoded("zstd", encoder.get_ref(), 4096).unwrap(), TEXT);
    }

    #[test]
    fn errors_stay() {
        assert_eq!(
            decoded("gzip", b"no gzip at all, really", 4),
            Err(Error::Malformed)
        );
        assert_eq!(decoded("lzw", TEXT, 4), Err(Error::Unsupported));
        let mut decoder = Decoder::new("lzw");
        assert!(
            decoder.push(b"x", &mut |_| ()).is_err() && decoder.push(b"x", &mut |_| ()).is_err()
        );
    }

    #[test]
    fn a_bomb_comes_in_bounded_pieces() {
        let bomb = gzip(&vec![0; 32 << 20]);
        let mut decoder = Decoder::new("gzip");
        let (mut largest, mut total) = (0, 0);
        decoder
            .push(&bomb, &mut |piece| {
                largest = largest.max(piece.len());
                total += piece.len();
            })
            .unwrap();
        assert_eq!(total, 32 << 20);
        assert!(largest <= STEP_BYTES * 1100, "{largest}");
    }
}
