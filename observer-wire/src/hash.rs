//! A hash of bytes as they come, wherever they are split: XXH64 (xxhash `doc/xxhash_spec.md` 0.2.0). It is
//! fast, and no secret is kept by it alone.

const PRIMES: [u64; 5] = [
    0x9e37_79b1_85eb_ca87,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x27d4_eb2f_1656_67c5,
];

/// Bytes that are taken at a time.
const STRIPE: usize = 32;

/// Hashes what it is given.
#[derive(Clone)]
pub(crate) struct Hasher {
    lanes: [u64; 4],
    seed: u64,
    held: [u8; STRIPE],
    length: u64,
}

impl Hasher {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            lanes: [
                seed.wrapping_add(PRIMES[0]).wrapping_add(PRIMES[1]),
                seed.wrapping_add(PRIMES[1]),
                seed,
                seed.wrapping_sub(PRIMES[0]),
            ],
            seed,
            held: [0; STRIPE],
            length: 0,
        }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        let held = (self.length % STRIPE as u64) as usize;
        self.length += bytes.len() as u64;
        if held > 0 {
            let length = bytes.len().min(STRIPE - held);
            let (piece, rest) = bytes.split_at(length);
            self.held[held..held + length].copy_from_slice(piece);
            bytes = rest;
            if held + length < STRIPE {
                return;
            }
            let held = self.held;
            self.take(&held);
        }
        let (stripes, rest) = bytes.as_chunks::<STRIPE>();
        for stripe in stripes {
            self.take(stripe);
        }
        self.held[..rest.len()].copy_from_slice(rest);
    }

    fn take(&mut self, stripe: &[u8; STRIPE]) {
        let (words, _) = stripe.as_chunks::<8>();
        for (lane, word) in self.lanes.iter_mut().zip(words) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn finish(&self) -> u64 {
        let mut hash = if self.length >= STRIPE as u64 {
            let [a, b, c, d] = self.lanes;
            let sum = a
                .rotate_left(1)
                .wrapping_add(b.rotate_left(7))
                .wrapping_add(c.rotate_left(12))
                .wrapping_add(d.rotate_left(18));
            self.lanes.into_iter().fold(sum, |hash, lane| {
                (hash ^ round(0, lane))
                    .wrapping_mul(PRIMES[0])
                    .wrapping_add(PRIMES[3])
            })
        } else {
            self.seed.wrapping_add(PRIMES[4])
        };
        hash = hash.wrapping_add(self.length);
        let held = (self.length % STRIPE as u64) as usize;
        let (words, rest) = self.held[..held].as_chunks::<8>();
        for word in words {
            hash = (hash ^ round(0, u64::from_le_bytes(*word)))
                .rotate_left(27)
                .wrapping_mul(PRIMES[0])
                .wrapping_add(PRIMES[3]);
        }
        let (halves, rest) = rest.as_chunks::<4>();
        for half in halves {
            hash = (hash ^ u64::from(u32::from_le_bytes(*half)).wrapping_mul(PRIMES[0]))
                .rotate_left(23)
                .wrapping_mul(PRIMES[1])
                .wrapping_add(PRIMES[2]);
        }
        for byte in rest {
            hash = (hash ^ u64::from(*byte).wrapping_mul(PRIMES[4]))
                .rotate_left(11)
                .wrapping_mul(PRIMES[0]);
        }
        avalanche(hash)
    }
}

/// The hash of two hashes in this order.
pub(crate) fn mix(first: u64, second: u64) -> u64 {
    avalanche(round(first, second).wrapping_add(PRIMES[4]) ^ first.rotate_left(29))
}

/// The hash of a few bytes.
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut hasher = Hasher::new(seed);
    hasher.update(bytes);
    hasher.finish()
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIMES[1]))
        .rotate_left(31)
        .wrapping_mul(PRIMES[0])
}

fn avalanche(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(PRIMES[1]);
    hash = (hash ^ hash >> 29).wrapping_mul(PRIMES[2]);
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_xxh64_wherever_the_bytes_are_split() {
        for (bytes, seed, expected) in [
            (&b""[..], 0, 0xef46_db37_51d8_e999),
            (b"a", 0, 0xd24e_c4f1_a98c_6e5b),
            (b"abc", 0, 0x44bc_2cf5_ad77_0999),
        ] {
            assert_eq!(hash(seed, bytes), expected);
        }
        let bytes: Vec<u8> = (0..=255).collect();
        let whole = hash(7, &bytes);
        for size in 1..100 {
            let mut hasher = Hasher::new(7);
            bytes.chunks(size).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), whole, "{size}");
        }
        assert_ne!(mix(1, 2), mix(2, 1));
    }
}
