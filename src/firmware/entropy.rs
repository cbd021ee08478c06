//! Random bytes for guests, from a seed that the board's firmware gave.
//!
//! A ChaCha20 generator. Every use replaces its key by output that nobody sees, so that whoever
//! learns the state learns nothing about bytes handed out before (forward secrecy). There is no
//! generator without a seed: a guest is then told that there is no entropy, rather than given
//! something guessable.

use core::fmt;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};

/// The shortest seed that makes a generator, in bytes: 128 bits.
pub const MIN_SEED: usize = 16;

const KEY: usize = 32;

/// A seeded generator of random bytes.
#[derive(Clone)]
pub struct Entropy {
    key: [u8; KEY],
}

impl Entropy {
    /// A generator seeded with `seed`, all of which counts. `None` when it is shorter than
    /// [`MIN_SEED`].
    pub fn from_seed(seed: &[u8]) -> Option<Self> {
        if seed.len() < MIN_SEED {
            return None;
        }
        let mut entropy = Self { key: [0; KEY] };
        entropy.mix(seed);
        Some(entropy)
    }

    /// Stirs `bytes` in. They need not be secret or random; they can only add to what is there.
    pub fn mix(&mut self, bytes: &[u8]) {
        for block in bytes.chunks(KEY) {
            for (key, byte) in self.key.iter_mut().zip(block) {
                *key ^= byte;
            }
            self.rekey(&mut []);
        }
        // The length counts as well, so that trailing zeros make a difference.
        for (key, byte) in self.key.iter_mut().zip((bytes.len() as u64).to_le_bytes()) {
            *key ^= byte;
        }
        self.rekey(&mut []);
    }

    /// Fills `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.rekey(out);
    }

    /// A generator of its own for somebody else, whose bytes tell nothing about this one's.
    pub fn fork(&mut self) -> Self {
        let mut key = [0; KEY];
        self.fill(&mut key);
        Self { key }
    }

    /// The stream's first bytes become the next key, what follows is for the caller.
    fn rekey(&mut self, out: &mut [u8]) {
        let mut stream = ChaCha20::new(&self.key.into(), &[0; 12].into());
        stream.write_keystream(&mut self.key);
        stream.write_keystream(out);
    }
}

impl fmt::Debug for Entropy {
    /// Says nothing about the state.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::format;

    use super::*;

    fn draw(entropy: &mut Entropy) -> [u8; 16] {
        let mut out = [0; 16];
        entropy.fill(&mut out);
        out
    }

    #[test]
    fn no_generator_without_128_bits_of_seed() {
        assert!(Entropy::from_seed(&[]).is_none());
        assert!(Entropy::from_seed(&[7; 15]).is_none());
        assert!(Entropy::from_seed(&[7; 16]).is_some());
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_every_byte_of_it_counts() {
        let seed = [3; 64];
        let first = draw(&mut Entropy::from_seed(&seed).unwrap());
        assert_eq!(first, draw(&mut Entropy::from_seed(&seed).unwrap()));
        for at in (0..seed.len()).step_by(crate::testing::pick(1, 64)) {
            let mut other = seed;
            other[at] ^= 1;
            assert_ne!(first, draw(&mut Entropy::from_seed(&other).unwrap()), "byte {at}");
        }
    }

    #[test]
    fn a_longer_seed_of_zeros_is_another_seed() {
        let seeds = [&[0; 16][..], &[0; 17], &[0; 32], &[0; 33]];
        let draws: BTreeSet<_> =
            seeds.map(|seed| draw(&mut Entropy::from_seed(seed).unwrap())).into_iter().collect();
        assert_eq!(draws.len(), seeds.len());
    }

    #[test]
    fn draws_mixes_and_forks_never_repeat() {
        let mut entropy = Entropy::from_seed(&[1; 32]).unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..crate::testing::pick(100, 1) {
            assert!(seen.insert(draw(&mut entropy)));
            assert!(seen.insert(draw(&mut entropy.fork())));
            entropy.mix(&[0]);
        }
    }

    #[test]
    fn the_state_does_not_hold_what_was_handed_out() {
        let mut entropy = Entropy::from_seed(&[1; 32]).unwrap();
        let out = draw(&mut entropy);
        assert!(!entropy.key.windows(16).any(|window| window == out));
    }

    #[test]
    fn debug_output_hides_the_key() {
        assert_eq!(format!("{:?}", Entropy::from_seed(&[1; 32]).unwrap()), "Entropy");
    }
}
