//! Random blocks that are valid in their format, for tests of decoders and kernels.

use super::{Rng, WeightType, decode::half_ue4m3};
use half::{bf16, f16};

/// Weights in each run of [`hard_blocks`].
pub const HARD_WEIGHTS: usize = 256;

/// `blocks` random blocks, one after another, whose weights have about the standard deviation `std`, and a mean near 0
/// (codes of Q4_0 and its like reach one step further down than up).
///
/// Every code occurs, and scales differ between blocks and within them. Equal arguments give equal bytes on all
/// platforms. `std` should be between 1e-3 and 1e3, so that the scales are well inside f16's range; below about 0.04
/// those of Q6_K are f16 subnormals, as they are in real models.
pub fn random_blocks(ty: WeightType, blocks: usize, std: f32, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; blocks.saturating_mul(ty.block_bytes())];
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        random_block(ty, block, std, &mut rng);
    }
    bytes
}

/// Makes a random block a hard one.
type Edit = fn(WeightType, &mut [u8]);

const FLOAT_EDITS: &[(&str, Edit)] =
    &[("zero", float_zero), ("negative zero", float_negative_zero), ("subnormal", float_subnormal)];

const BLOCK_EDITS: &[(&str, Edit)] = &[
    ("zero scale", zero_scale),
    ("negative scale", negative_scale),
    ("subnormal scale", subnormal_scale),
    ("smallest scale", smallest_scale),
    ("lowest codes", lowest_codes),
    ("highest codes", highest_codes),
];

/// Runs of [`HARD_WEIGHTS`] weights each at the edges of the format, with a name: zero, negative and subnormal scales,
/// the ends of the codes' and the sub-block scales' ranges. All decode to finite values, of magnitudes below 1;
/// in runs named `subnormal` of F32 and BF16 the weights themselves are subnormal, which a GPU may flush to zero.
pub fn hard_blocks(ty: WeightType, seed: u64) -> Vec<(&'static str, Vec<u8>)> {
    let own: &[(&'static str, Edit)] = match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => FLOAT_EDITS,
        WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q5_0 | WeightType::Q5_1 => &[],
        WeightType::IQ4NL | WeightType::TQ1_0 | WeightType::TQ2_0 => &[],
        WeightType::IQ2XXS | WeightType::IQ3XXS | WeightType::IQ1S => &[],
        WeightType::IQ2XS => &[
            ("sub-block scales 0", |_, block| block[66..].fill(0x00)),
            ("sub-block scales 15", |_, block| block[66..].fill(0xFF)),
        ],
        WeightType::IQ2S => &[
            ("sub-block scales 0", |_, block| block[74..].fill(0x00)),
            ("sub-block scales 15", |_, block| block[74..].fill(0xFF)),
        ],
        WeightType::IQ3S => &[
            ("sub-block scales 0", |_, block| block[106..].fill(0x00)),
            ("sub-block scales 15", |_, block| block[106..].fill(0xFF)),
        ],
        WeightType::IQ1M => &[
            ("sub-block scales 0", |_, block| iq1_m_scales(block, 0)),
            ("sub-block scales 7", |_, block| iq1_m_scales(block, 0x0FFF)),
        ],
        WeightType::NVFP4 => &[
            ("zero", |_, block| block[4..].fill(0x80)),
            ("zero scale", |_, block| block[..4].copy_from_slice(&[0x00, 0x7F, 0x80, 0x00])),
            ("lowest codes", |_, block| block[4..].fill(0xFF)),
            ("highest codes", |_, block| block[4..].fill(0x77)),
            ("subnormal scale", |_, block| block[..4].copy_from_slice(&[0x01, 0x07, 0x03, 0x81])),
            ("smallest normal scale", |_, block| block[..4].copy_from_slice(&[0x08, 0x09, 0x0F, 0x88])),
        ],
        WeightType::MXFP4 => &[
            ("zero", |_, block| block[1..].fill(0x80)),
            ("lowest codes", |_, block| block[1..].fill(0xFF)),
            ("highest codes", |_, block| block[1..].fill(0x77)),
            ("smallest normal scale", |_, block| block[0] = 2),
        ],
        WeightType::Q2K => &[
            ("sub-block scales 0, minima 15", |_, block| block[..16].fill(0xF0)),
            ("sub-block scales 15, minima 0", |_, block| block[..16].fill(0x0F)),
        ],
        WeightType::Q3K => &[
            ("sub-block scales -32", |_, block| block[96..108].fill(0x00)),
            ("sub-block scales 31", |_, block| block[96..108].fill(0xFF)),
        ],
        WeightType::IQ4XS => &[
            ("sub-block scales -32", |_, block| block[2..8].fill(0x00)),
            ("sub-block scales 31", |_, block| block[2..8].fill(0xFF)),
        ],
        WeightType::Q4K | WeightType::Q5K => &[
            ("sub-block scales 0 and 63", |_, block| k_scales(block, [0, 63], [0, 63])),
            ("sub-block scales 63, minima 0", |_, block| k_scales(block, [63, 63], [0, 0])),
            ("sub-block scales 0, minima 63", |_, block| k_scales(block, [0, 0], [63, 63])),
        ],
        WeightType::Q6K => &[
            ("sub-block scales -128 and 127", |_, block| q6_k_scales(block, [-128, 127])),
            ("sub-block scales 0 and -1", |_, block| q6_k_scales(block, [0, -1])),
        ],
    };
    let own_scales = matches!(ty, WeightType::MXFP4 | WeightType::NVFP4);
    let common = if ty.block_len() == 1 || own_scales { &[] } else { BLOCK_EDITS };
    let blocks = HARD_WEIGHTS / ty.block_len();
    common
        .iter()
        .chain(own)
        .zip(0..)
        .map(|(&(name, edit), i)| {
            let mut bytes = random_blocks(ty, blocks, 0.02, seed.wrapping_add(i));
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                edit(ty, block);
            }
            (name, bytes)
        })
        .collect()
}

fn random_block(ty: WeightType, block: &mut [u8], std: f32, rng: &mut Rng) {
    match ty {
        WeightType::F32 => block.copy_from_slice(&(std * rng.normal()).to_le_bytes()),
        WeightType::F16 => block.copy_from_slice(&f16::from_f32(std * rng.normal()).to_le_bytes()),
        WeightType::BF16 => block.copy_from_slice(&bf16::from_f32(std * rng.normal()).to_le_bytes()),
        // Uniform codes of n levels deviate by about n / √12 steps.
        WeightType::Q8_0 => quantised(ty, block, std / 74.0, 0.0, rng),
        WeightType::Q4_0 => quantised(ty, block, std / 4.6, 0.0, rng),
        WeightType::Q4_1 => quantised(ty, block, std / 4.6, -7.5, rng),
        WeightType::Q5_0 => quantised(ty, block, std / 9.2, 0.0, rng),
        WeightType::Q5_1 => quantised(ty, block, std / 9.2, -15.5, rng),
        // Sub-block scales are drawn from 20..46: 33 on average.
        WeightType::Q4K => quantised(ty, block, std / (33.5 * 4.6), 7.5, rng),
        WeightType::Q5K => quantised(ty, block, std / (33.5 * 9.2), 15.5, rng),
        WeightType::Q6K => quantised(ty, block, std / (33.5 * 18.5), 0.0, rng),
        // Uniform scales and minima of all their values.
        WeightType::Q2K => quantised(ty, block, std / 14.02, 1.5, rng),
        WeightType::Q3K => quantised(ty, block, std / 43.8, 0.0, rng),
        WeightType::IQ4NL => quantised(ty, block, std / 67.9, 0.0, rng),
        WeightType::IQ4XS => quantised(ty, block, std / 1260.0, 0.0, rng),
        WeightType::TQ2_0 => quantised(ty, block, std / 0.825, 0.0, rng),
        WeightType::MXFP4 => mxfp4(block, std / 5.79, rng),
        WeightType::NVFP4 => nvfp4(block, std / 5.79, rng),
        // Uniform points, signs and scales.
        WeightType::IQ2XXS => quantised(ty, block, std / 53.5, 0.0, rng),
        WeightType::IQ2XS => quantised(ty, block, std / 55.9, 0.0, rng),
        WeightType::IQ2S => quantised(ty, block, std / 56.4, 0.0, rng),
        WeightType::IQ3XXS => quantised(ty, block, std / 142.5, 0.0, rng),
        WeightType::IQ3S => quantised(ty, block, std / 140.0, 0.0, rng),
        WeightType::IQ1S | WeightType::IQ1M => quantised(ty, block, std / 7.2, 0.0, rng),
        WeightType::TQ1_0 => quantised(ty, block, std / 0.825, 0.0, rng),
    }
}

/// Random codes under four scales near `d`, each one of the two neighbours of a number in UE4M3.
fn nvfp4(block: &mut [u8], d: f32, rng: &mut Rng) {
    rng.fill(block);
    for scale in block.iter_mut().take(4) {
        let wanted = d * (0.75 + 0.5 * rng.next_f32());
        let upper = (1..0x7E).find(|byte| half_ue4m3(*byte) >= wanted).unwrap_or(0x7E);
        let squares = [half_ue4m3(upper - 1), half_ue4m3(upper), wanted].map(|value| value * value);
        let share = (squares[2] - squares[0]) / (squares[1] - squares[0]);
        *scale = upper - u8::from(rng.next_f32() >= share);
    }
}

/// Random codes under one of the two powers of two around `d`, so that the squares of the scales are `d`² on average.
fn mxfp4(block: &mut [u8], d: f32, rng: &mut Rng) {
    rng.fill(block);
    let lower = f32::from_bits(d.to_bits() & 0x7F80_0000);
    let upper = rng.next_f32() < ((d / lower).powi(2) - 1.0) / 3.0;
    block[0] = (lower.to_bits() >> 23) as u8 + 1 + u8::from(upper);
}

/// Random codes under a scale near `d`, with a minimum of `centre` steps where the format has one.
fn quantised(ty: WeightType, block: &mut [u8], d: f32, centre: f32, rng: &mut Rng) {
    rng.fill(block);
    match ty {
        // One number for scale and minimum centres the sub-block on zero.
        WeightType::Q4K | WeightType::Q5K => {
            let sub_blocks = std::array::from_fn(|_| 20 + rng.below(26) as u8);
            pack_k_scales(block, sub_blocks, sub_blocks);
        }
        WeightType::Q6K => {
            for scale in q6_k_scale_bytes(block) {
                *scale = 20 + rng.below(26) as u8;
            }
        }
        // Three of the four codes are weights of a ternary model.
        WeightType::TQ2_0 => {
            for byte in code_bytes(ty, block) {
                *byte = (0..4).fold(0, |byte, _| (byte << 2) | rng.below(3) as u8);
            }
        }
        _ => {}
    }
    let d = f16::from_f32(d * (0.75 + 0.5 * rng.next_f32()));
    put_scale(ty, block, d, f16::from_f32(d.to_f32() * centre));
}

/// Stores the block's scale, and its minimum where the format has one.
fn put_scale(ty: WeightType, block: &mut [u8], d: f16, minimum: f16) {
    let put = |at: Option<&mut [u8]>, value: f16| {
        if let Some(at) = at {
            at.copy_from_slice(&value.to_le_bytes());
        }
    };
    match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 | WeightType::MXFP4 | WeightType::NVFP4 => {}
        WeightType::IQ1M => {
            for (i, word) in block.get_mut(48..56).unwrap_or_default().as_chunks_mut().0.iter_mut().enumerate() {
                let nibble = (d.to_bits() >> (4 * i)) & 15;
                *word = ((u16::from_le_bytes(*word) & 0x0FFF) | (nibble << 12)).to_le_bytes();
            }
        }
        WeightType::TQ1_0 => put(block.get_mut(52..54), d),
        WeightType::Q6K => put(block.get_mut(208..210), d),
        WeightType::Q3K => put(block.get_mut(108..110), d),
        WeightType::TQ2_0 => put(block.get_mut(64..66), d),
        WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q5_0 | WeightType::IQ4NL | WeightType::IQ4XS => {
            put(block.get_mut(0..2), d);
        }
        WeightType::IQ2XXS
        | WeightType::IQ2XS
        | WeightType::IQ2S
        | WeightType::IQ3XXS
        | WeightType::IQ3S
        | WeightType::IQ1S => {
            put(block.get_mut(0..2), d);
        }
        WeightType::Q2K => {
            put(block.get_mut(80..82), d);
            put(block.get_mut(82..84), minimum);
        }
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K => {
            put(block.get_mut(0..2), d);
            put(block.get_mut(2..4), minimum);
        }
    }
}

/// The bytes of the codes alone.
fn code_bytes(ty: WeightType, block: &mut [u8]) -> &mut [u8] {
    let range = match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => 0..0,
        WeightType::Q8_0 | WeightType::Q4_0 | WeightType::Q5_0 => 2..ty.block_bytes(),
        WeightType::Q4_1 | WeightType::Q5_1 => 4..ty.block_bytes(),
        WeightType::Q4K | WeightType::Q5K => 16..ty.block_bytes(),
        WeightType::Q6K => 0..192,
        WeightType::Q2K => 16..80,
        WeightType::Q3K => 0..96,
        WeightType::IQ4NL => 2..18,
        WeightType::IQ4XS => 8..136,
        WeightType::TQ2_0 => 0..64,
        WeightType::MXFP4 => 1..17,
        WeightType::NVFP4 => 4..36,
        WeightType::TQ1_0 => 0..52,
        WeightType::IQ1M => 0..48,
        WeightType::IQ2XS => 2..66,
        WeightType::IQ2S => 2..74,
        WeightType::IQ3S => 2..106,
        WeightType::IQ2XXS | WeightType::IQ3XXS | WeightType::IQ1S => 2..ty.block_bytes(),
    };
    block.get_mut(range).unwrap_or_default()
}

fn q6_k_scale_bytes(block: &mut [u8]) -> &mut [u8] {
    block.get_mut(192..208).unwrap_or_default()
}

/// Packs the six-bit scales and minima of a Q4_K or Q5_K block's 8 sub-blocks.
fn pack_k_scales(block: &mut [u8], scales: [u8; 8], minima: [u8; 8]) {
    let Some(packed) = block.get_mut(4..16) else { return };
    for i in 0..4 {
        packed[i] = (scales[i] & 63) | ((scales[i + 4] >> 4) << 6);
        packed[i + 4] = (minima[i] & 63) | ((minima[i + 4] >> 4) << 6);
        packed[i + 8] = (scales[i + 4] & 15) | ((minima[i + 4] & 15) << 4);
    }
}

fn k_scales(block: &mut [u8], scales: [u8; 2], minima: [u8; 2]) {
    pack_k_scales(block, std::array::from_fn(|i| scales[i % 2]), std::array::from_fn(|i| minima[i % 2]));
}

fn q6_k_scales(block: &mut [u8], scales: [i8; 2]) {
    for (at, scale) in q6_k_scale_bytes(block).iter_mut().zip(scales.into_iter().cycle()) {
        *at = scale.cast_unsigned();
    }
}

/// Sets the low 12 bits of an IQ1_M block's words of four scales.
fn iq1_m_scales(block: &mut [u8], scales: u16) {
    for word in block.get_mut(48..56).unwrap_or_default().as_chunks_mut().0 {
        *word = ((u16::from_le_bytes(*word) & 0xF000) | scales).to_le_bytes();
    }
}

fn zero_scale(ty: WeightType, block: &mut [u8]) {
    put_scale(ty, block, f16::ZERO, f16::ZERO);
}

fn negative_scale(ty: WeightType, block: &mut [u8]) {
    put_scale(ty, block, f16::from_f32(-1.0 / 8192.0), f16::from_f32(-1.0 / 1024.0));
}

/// A scale of 2⁻¹⁵ and a bit, a minimum below 2⁻¹⁶: neither is a normal f16.
fn subnormal_scale(ty: WeightType, block: &mut [u8]) {
    put_scale(ty, block, f16::from_bits(0x0203), f16::from_bits(0x00FF));
}

fn smallest_scale(ty: WeightType, block: &mut [u8]) {
    put_scale(ty, block, f16::from_bits(0x0001), f16::from_bits(0x0001));
}

/// Codes that stand for the least value: all zero, but -128 in Q8_0.
fn lowest_codes(ty: WeightType, block: &mut [u8]) {
    code_bytes(ty, block).fill(if ty == WeightType::Q8_0 { 0x80 } else { 0 });
}

fn highest_codes(ty: WeightType, block: &mut [u8]) {
    code_bytes(ty, block).fill(if ty == WeightType::Q8_0 { 0x7F } else { 0xFF });
}

fn float_zero(_: WeightType, weight: &mut [u8]) {
    weight.fill(0);
}

fn float_negative_zero(_: WeightType, weight: &mut [u8]) {
    weight.fill(0);
    if let Some(sign) = weight.last_mut() {
        *sign = 0x80;
    }
}

/// Keeps the sign and mantissa, and clears the exponent.
fn float_subnormal(ty: WeightType, weight: &mut [u8]) {
    if let [.., low, high] = weight {
        *high &= 0x80 | if ty == WeightType::F16 { 0x03 } else { 0 };
        *low &= if ty == WeightType::F16 { 0xFF } else { 0x7F };
    }
}
