//! A worker's own random numbers: good enough for balancing and jitter, and two nanoseconds each.

use std::cell::Cell;

/// A generator of one thread (xoshiro256++, seeded from the system).
#[derive(Debug)]
pub(crate) struct Random {
    state: [Cell<u64>; 4],
}

impl Random {
    /// Seeds one from the system's randomness.
    pub(crate) fn from_system() -> Self {
        Self::from_seed(rand::random())
    }

    /// Seeds one, so that a test can be repeated.
    pub(crate) fn from_seed(seed: u64) -> Self {
        // SplitMix64, which its authors recommend for seeding; it gives no all-zero state.
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            Cell::new(z ^ (z >> 31))
        };
        Self {
            state: [next(), next(), next(), next()],
        }
    }

    /// The next number, uniform over all of `u64`.
    pub(crate) fn next(&self) -> u64 {
        let [s0, s1, s2, s3] = [0, 1, 2, 3].map(|i| self.state[i].get());
        let result = s0.wrapping_add(s3).rotate_left(23).wrapping_add(s0);
        let (s2, s3) = (s2 ^ s0, s3 ^ s1);
        let (s1, s0) = (s1 ^ s2, s0 ^ s3);
        let t = self.state[1].get() << 17;
        self.state[0].set(s0);
        self.state[1].set(s1);
        self.state[2].set(s2 ^ t);
        self.state[3].set(s3.rotate_left(45));
        result
    }

    /// An index below `len`, which is not 0.
    pub(crate) fn below(&self, len: usize) -> usize {
        // The high half of a product is unbiased enough for lengths far below 2^64, and costs no division.
        ((u128::from(self.next()) * len as u128) >> 64) as usize
    }

    /// A version 4 UUID as text.
    pub(crate) fn uuid(&self) -> [u8; 36] {
        let mut bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        bits = bits & !(0xF << 76) | (4 << 76);
        bits = bits & !(0x3 << 62) | (2 << 62);
        let mut text = [b'-'; 36];
        for (at, byte) in PLACES.into_iter().zip(bits.to_be_bytes()) {
            text[at..at + 2].copy_from_slice(&HEX[usize::from(byte)]);
        }
        text
    }
}

/// Where the bytes of a UUID are in its text.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// Every byte as text.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut all = [[0; 2]; 256];
    let mut byte = 0;
    while byte < all.len() {
        all[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xF]];
        byte += 1;
    }
    all
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_looks_like_one() {
        let random = Random::from_seed(7);
        for _ in 0..1000 {
            let uuid = String::from_utf8(random.uuid().to_vec()).expect("ASCII");
            assert_eq!(&uuid[14..15], "4", "{uuid}");
            assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
            assert_eq!(uuid.matches('-').count(), 4, "{uuid}");
        }
    }

    #[test]
    fn indices_are_uniform() {
        let random = Random::from_seed(1);
        let mut seen = [0u32; 7];
        for _ in 0..70_000 {
            seen[random.below(7)] += 1;
        }
        assert!(seen.iter().all(|n| (9_500..10_500).contains(n)), "{seen:?}");
    }
}
