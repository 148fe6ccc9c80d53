//! A small random generator whose every result is the same on all platforms.

/// SplitMix64: a 64-bit counter, mixed. For test data; not for secrets.
///
/// Results are made of integers and exact float operations only, so that they never depend on a maths library.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator; equal seeds give equal sequences.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A multiple of 2⁻²⁴, uniform in `[0, 1)`.
    pub const fn next_f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / 16_777_216.0
    }

    /// An integer, uniform in `0..bound` (0 if `bound` is 0).
    pub const fn below(&mut self, bound: u32) -> u32 {
        (((self.next_u64() >> 32) * bound as u64) >> 32) as u32
    }

    /// About normally distributed, with mean 0 and deviation 1, within ±6: the sum of 12 uniform numbers, less 6.
    pub fn normal(&mut self) -> f32 {
        // In f64 the sum is exact.
        ((0..12).map(|_| f64::from(self.next_f32())).sum::<f64>() - 6.0) as f32
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            for (byte, random) in chunk.iter_mut().zip(self.next_u64().to_le_bytes()) {
                *byte = random;
            }
        }
    }
}
