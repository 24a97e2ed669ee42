//! Hashes of bytes as they come, wherever they are split: XXH64. It is fast, and no secret is kept by it alone.

use std::hash::Hasher as _;

use twox_hash::XxHash64;

/// Hashes what it is given.
#[derive(Clone)]
pub(crate) struct Hasher(XxHash64);

impl Hasher {
    pub(crate) fn new(seed: u64) -> Self {
        Self(XxHash64::with_seed(seed))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.total_len() == 0
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// The hash of two hashes in this order.
pub(crate) fn mix(first: u64, second: u64) -> u64 {
    hash(first, &second.to_le_bytes())
}

/// The hash of a few bytes.
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    XxHash64::oneshot(seed, bytes)
}
