//! Numbers by chance, the same for the same seed; and values that are worth trying.

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
pub struct Random(u64);

impl Random {
    /// The sequence that `seed` gives CPU number `cpu` when it begins for the `time`th time.
    pub fn new(seed: u64, cpu: usize, time: u64) -> Self {
        let mut random = Self(seed ^ (cpu as u64) << 56 ^ time << 32);
        random.next();
        random
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Any 32 bits.
    pub fn word(&mut self) -> u32 {
        self.next() as u32
    }

    /// One of 0 to `count` - 1.
    pub fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    /// Once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// What may be stored anywhere: as an address, a device or nothing is there, or the `scratch` memory. So no device that is
    /// told lies finds the payload by chance.
    pub fn value(&mut self, scratch: u64) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1,
            3 => self.next() | 0xc000_0000_c000_0000,
            4 => self.next() & 0x0000_ffff_0000_ffff,
            5 => 1 << self.below(30),
            6 => scratch + self.below(0x1_0000),
            _ => self.one_of(&[
                0x7fff_ffff,
                0x8000_0000,
                0xffff_ffff,
                1 << 63,
                u64::MAX >> 1,
                0xaaaa_aaaa_aaaa_aaaa & !(1 << 30),
                1024,
                0xfff,
            ]),
        }
    }
}
