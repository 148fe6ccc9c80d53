//! The slot `kv`: how a KV cache stores the elements of a head, in WGSL and for CPU kernels and cases.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::gpu::{Caps, Packing, Source, wgsl};

/// How a KV cache stores the elements of a head. Kernels load 16 bytes at once, to which heads are padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// IEEE halves, two in a word.
    #[default]
    F16,
    /// f32.
    F32,
    /// Groups of 32 elements, the last of a head perhaps shorter, as in GGML's Q8_0: `x ≈ d · code` with
    /// `d = max|x| / 127` and int8 codes, rounded half to even. A head is its scales `d`, then its codes, four to a
    /// word; both are padded to four words. The scales are f32, not f16 as in files, which would be subnormal for
    /// magnitudes below 0.008 and infinite beyond 8e6. A group whose largest magnitude is below 1e-30 is zeros.
    Q8_0,
}

/// Elements of a group, which share a scale in Q8_0.
const GROUP: usize = 32;

/// The smallest magnitude that Q8_0 scales: devices may flush subnormal scales.
const SMALLEST: f64 = 1e-30;

/// The largest half.
const LARGEST_HALF: f64 = 65504.0;

impl KvType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F16, Self::F32, Self::Q8_0];

    /// Returns the words (of four bytes) of a head of `head_dim` elements.
    pub fn head_words(self, head_dim: u32) -> u32 {
        4 * match self {
            Self::F16 => head_dim.div_ceil(8),
            Self::F32 => head_dim.div_ceil(4),
            Self::Q8_0 => head_dim.div_ceil(128) + head_dim.div_ceil(16),
        }
    }

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Returns the formats that a device can keep, the default first: f16 needs `pack2x16float`.
    pub(crate) fn available(caps: &Caps) -> impl Iterator<Item = Self> {
        let halves = caps.pack_f16;
        Self::ALL.into_iter().filter(move |kv| *kv != Self::F16 || halves)
    }

    /// Fills the slot for a kernel that reads heads of `KV_HEAD` words.
    pub(crate) fn load(self, source: Source) -> Source {
        let fragment = match self {
            Self::F16 => wgsl!("kv/f16.wgsl"),
            Self::F32 => wgsl!("kv/f32.wgsl"),
            Self::Q8_0 => wgsl!("kv/q8_0.wgsl"),
        };
        source.with(fragment)
    }

    /// Fills the slot for a kernel that stores heads of `head_dim()` elements.
    pub(crate) fn store(self, source: Source) -> Source {
        let fragment = match self {
            Self::F16 => wgsl!("kv/f16_store.wgsl"),
            Self::F32 => wgsl!("kv/f32_store.wgsl"),
            Self::Q8_0 => wgsl!("kv/q8_0_store.wgsl"),
        };
        source.with(fragment).with(wgsl!("kv/store.wgsl"))
    }

    /// Returns how a head of `head_dim` elements is packed into words.
    pub(crate) fn packing(self, head_dim: u32) -> Packing {
        let (numbers, words) = (head_dim as usize, self.head_words(head_dim) as usize);
        match self {
            Self::F16 => Packing { numbers, words, pack: pack_halves, unpack: unpack_halves },
            Self::F32 => Packing { numbers, words, pack: pack_floats, unpack: unpack_floats },
            Self::Q8_0 => Packing { numbers, words, pack: pack_groups, unpack: unpack_groups },
        }
    }

    /// Returns what a cache must hold after a head is stored: its exact elements, each with its bound and that of
    /// rounding. In f16 rounding adds one unit in the last place, or 2⁻¹⁴ where a device flushes subnormals; in Q8_0
    /// `0.5001 · d`, with `d` as inexact as the group's largest element. WGSL's division is within 2.5 units in the
    /// last place, which can change a code within 1e-4 of the middle between two. An element halfway between two codes has
    /// an error of half a step whatever the kernel does: the worst of thousands has 0.999 of this bound and more.
    pub(crate) fn stored(self, head: &[(f64, f64)]) -> Vec<(f64, f64)> {
        match self {
            Self::F16 => {
                let smallest = 1.0 / f64::from(1 << 14);
                let last_place = |v: f64| if v.abs() < smallest { smallest } else { v.abs() / 1024.0 };
                let half = |(exact, bound): &(f64, f64)| {
                    let exact = exact.clamp(-LARGEST_HALF, LARGEST_HALF);
                    (exact, bound + last_place(exact))
                };
                head.iter().map(half).collect()
            }
            Self::F32 => head.to_vec(),
            Self::Q8_0 => {
                let group = |group: &[(f64, f64)]| {
                    let largest = group.iter().map(|(exact, bound)| exact.abs() + bound).fold(0.0, f64::max);
                    let rounding = 0.5001 * largest / 127.0 + SMALLEST;
                    group.iter().map(|(exact, bound)| (*exact, bound + rounding)).collect::<Vec<_>>()
                };
                head.chunks(GROUP).flat_map(group).collect()
            }
        }
    }
}

fn pack_halves(values: &[f64], words: &mut [u32]) {
    let half = |v: f64| u32::from(half::f16::from_f64(v.clamp(-LARGEST_HALF, LARGEST_HALF)).to_bits());
    for (pair, word) in values.chunks_exact(2).zip(words) {
        *word = half(pair[0]) | half(pair[1]) << 16;
    }
}

fn unpack_halves(words: &[u32], values: &mut [f64]) {
    let halves: &[u16] = bytemuck::cast_slice(words);
    halves[..values.len()].reinterpret_cast::<half::f16>().convert_to_f64_slice(values);
}

fn pack_floats(values: &[f64], words: &mut [u32]) {
    values.iter().zip(words).for_each(|(value, word)| *word = (*value as f32).to_bits());
}

fn unpack_floats(words: &[u32], values: &mut [f64]) {
    values.iter_mut().zip(words).for_each(|(value, word)| *value = f64::from(f32::from_bits(*word)));
}

fn pack_groups(values: &[f64], words: &mut [u32]) {
    let groups = values.chunks(GROUP);
    let (scales, codes) = words.split_at_mut(groups.len().next_multiple_of(4));
    for ((group, scale), codes) in groups.zip(scales).zip(codes.chunks_mut(GROUP / 4)) {
        let largest = group.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        let d = if largest >= SMALLEST { (largest / 127.0) as f32 } else { 0.0 };
        *scale = d.to_bits();
        for (four, word) in group.chunks(4).zip(codes) {
            let code = |value: &f64| if d > 0.0 { (value / f64::from(d)).round_ties_even() as i8 } else { 0 };
            let bytes = four.iter().zip(0..).map(|(value, i)| u32::from(code(value) as u8) << (8 * i));
            *word = bytes.fold(0, |word, byte| word | byte);
        }
    }
}

fn unpack_groups(words: &[u32], values: &mut [f64]) {
    let groups = values.chunks_mut(GROUP);
    let (scales, codes) = words.split_at(groups.len().next_multiple_of(4));
    for ((group, scale), codes) in groups.zip(scales).zip(codes.chunks(GROUP / 4)) {
        let d = f64::from(f32::from_bits(*scale));
        for (four, word) in group.chunks_mut(4).zip(codes) {
            four.iter_mut().zip(word.to_le_bytes()).for_each(|(value, code)| *value = d * f64::from(code as i8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs and unpacks a head, and checks the result against the bound.
    fn round_trip(kv: KvType, head: &[f64]) -> (Vec<u32>, Vec<f64>) {
        let packing = kv.packing(head.len() as u32);
        let (mut words, mut back) = (vec![0; packing.words], vec![f64::NAN; head.len()]);
        (packing.pack)(head, &mut words);
        (packing.unpack)(&words, &mut back);
        let exact: Vec<_> = head.iter().map(|v| (f64::from(*v as f32), 0.0)).collect();
        for ((exact, bound), back) in kv.stored(&exact).iter().zip(&back) {
            assert!((exact - back).abs() <= *bound, "{kv:?}: {back} for {exact} ± {bound}");
        }
        (words, back)
    }

    #[test]
    fn heads_are_packed_within_their_rounding() {
        for head_dim in [2, 6, 16, 34, 80, 256] {
            let head: Vec<f64> = (0..head_dim).map(|i| (f64::from(i) * 1.7).sin() * f64::from(1 + i / 32)).collect();
            for kv in KvType::ALL {
                let (words, back) = round_trip(kv, &head);
                // Packing what was unpacked changes nothing.
                assert_eq!(round_trip(kv, &back), (words, back));
            }
        }
    }

    #[test]
    fn groups_have_a_scale_each() {
        let mut head = vec![0.5; 34];
        (head[1], head[2], head[33]) = (-127.0, 1.5, 0.1);
        let (words, back) = round_trip(KvType::Q8_0, &head);
        assert_eq!(words.len() as u32, KvType::Q8_0.head_words(34));
        assert_eq!(words[..2], [1.0f32.to_bits(), (0.5f32 / 127.0).to_bits()]);
        // Half to even: 0.5 is 0, 1.5 is 2, -127 is 0x81; the last group is 127 and 25.4.
        assert_eq!([words[4], words[12]], [0x0002_8100, 0x0000_197f]);
        assert_eq!(back[..3], [0.0, -127.0, 2.0]);

        let (words, back) = round_trip(KvType::Q8_0, &[1e-31, -1e-31]);
        assert_eq!((words, back), (vec![0; 8], vec![0.0, 0.0]));
    }

    #[test]
    fn non_finite_values_do_not_panic() {
        for head in [[f64::NAN, 1.0, 0.0, 2.0], [f64::INFINITY, -1.0, 0.0, 2.0]] {
            for kv in KvType::ALL {
                let packing = kv.packing(4);
                (packing.pack)(&head, &mut vec![0; packing.words]);
            }
        }
        let mut halves = [0; 4];
        (KvType::F16.packing(4).pack)(&[1e6, -1e6, 0.0, 1.0], &mut halves);
        assert_eq!(halves[0], 0xfbff_7bff);
    }
}
