//! Blocks to f32: the definition of every format, and what kernels are tested against.
//!
//! Each value is computed in f32 in ggml's order of operations, so results equal ggml's (`dequantize_row_*`) and
//! gguf-py's bit for bit.

use super::{WeightType, grids};
use half::{bf16, f16};

/// Why [`decode`] refused its arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes do not divide into blocks.
    #[error("{bytes} bytes are not a whole number of {ty} blocks of {} bytes", ty.block_bytes())]
    PartialBlock {
        /// The format asked for.
        ty: WeightType,
        /// Bytes given.
        bytes: usize,
    },
    /// The output has room for another number of weights than the bytes hold.
    #[error("{blocks} blocks of {ty} hold {} weights each, but the output has room for {room} weights", ty.block_len())]
    Length {
        /// The format asked for.
        ty: WeightType,
        /// Blocks given.
        blocks: usize,
        /// Length of the output.
        room: usize,
    },
}

/// Decodes a run of blocks; `out` takes exactly the weights that `bytes` hold, in order.
///
/// # Errors
/// [`DecodeError`] if `bytes` is not whole blocks, or `out` is not of the matching length; `out` is then unchanged.
pub fn decode(ty: WeightType, bytes: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
    if !bytes.len().is_multiple_of(ty.block_bytes()) {
        return Err(DecodeError::PartialBlock { ty, bytes: bytes.len() });
    }
    let blocks = bytes.len() / ty.block_bytes();
    if blocks.checked_mul(ty.block_len()) != Some(out.len()) {
        return Err(DecodeError::Length { ty, blocks, room: out.len() });
    }
    decode_all(ty, bytes, out);
    Ok(())
}

/// Decodes one block of [`WeightType::block_bytes`] bytes into [`WeightType::block_len`] weights.
///
/// Slices of other lengths are the caller's mistake: `out` is then filled with NaN, which cannot pass for weights.
pub fn decode_block(ty: WeightType, block: &[u8], out: &mut [f32]) {
    if block.len() == ty.block_bytes() && out.len() == ty.block_len() {
        decode_all(ty, block, out);
    } else {
        out.fill(f32::NAN);
    }
}

fn decode_all(ty: WeightType, bytes: &[u8], out: &mut [f32]) {
    match ty {
        WeightType::F32 => each(bytes, out, |b, out| *out = [f32::from_le_bytes(*b)]),
        WeightType::F16 => each(bytes, out, |b, out| *out = [half(*b)]),
        WeightType::BF16 => each(bytes, out, |b, out| *out = [bf16::from_le_bytes(*b).to_f32()]),
        WeightType::Q8_0 => each(bytes, out, q8_0),
        WeightType::Q4_0 => each(bytes, out, q4_0),
        WeightType::Q4_1 => each(bytes, out, q4_1),
        WeightType::Q5_0 => each(bytes, out, q5_0),
        WeightType::Q5_1 => each(bytes, out, q5_1),
        WeightType::Q4K => each(bytes, out, q4_k),
        WeightType::Q5K => each(bytes, out, q5_k),
        WeightType::Q6K => each(bytes, out, q6_k),
        WeightType::Q2K => each(bytes, out, q2_k),
        WeightType::Q3K => each(bytes, out, q3_k),
        WeightType::IQ4NL => each(bytes, out, iq4_nl),
        WeightType::IQ4XS => each(bytes, out, iq4_xs),
        WeightType::TQ2_0 => each(bytes, out, tq2_0),
        WeightType::MXFP4 => each(bytes, out, mxfp4),
        WeightType::IQ2XXS => each(bytes, out, iq2_xxs),
        WeightType::IQ2XS => each(bytes, out, iq2_xs),
        WeightType::IQ2S => each(bytes, out, iq2_s),
        WeightType::IQ3XXS => each(bytes, out, iq3_xxs),
        WeightType::IQ3S => each(bytes, out, iq3_s),
        WeightType::IQ1S => each(bytes, out, iq1_s),
        WeightType::IQ1M => each(bytes, out, iq1_m),
        WeightType::TQ1_0 => each(bytes, out, tq1_0),
        WeightType::NVFP4 => each(bytes, out, nvfp4),
    }
}

/// Runs `decoder` over every block of `B` bytes and `N` weights.
fn each<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], decoder: impl Fn(&[u8; B], &mut [f32; N])) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decoder(block, out);
    }
}

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

fn q8_0(&[d0, d1, ref qs @ ..]: &[u8; 34], out: &mut [f32; 32]) {
    let d = half([d0, d1]);
    for (out, &q) in out.iter_mut().zip(qs) {
        *out = d * f32::from(q.cast_signed());
    }
}

fn q4_0(&[d0, d1, ref qs @ ..]: &[u8; 18], out: &mut [f32; 32]) {
    let d = half([d0, d1]);
    codes(qs, 0, out, |q| d * (q - 8.0));
}

fn q4_1(&[d0, d1, m0, m1, ref qs @ ..]: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half([d0, d1]), half([m0, m1]));
    codes(qs, 0, out, |q| d * q + m);
}

fn q5_0(&[d0, d1, h0, h1, h2, h3, ref qs @ ..]: &[u8; 22], out: &mut [f32; 32]) {
    let d = half([d0, d1]);
    codes(qs, u32::from_le_bytes([h0, h1, h2, h3]), out, |q| d * (q - 16.0));
}

fn q5_1(&[d0, d1, m0, m1, h0, h1, h2, h3, ref qs @ ..]: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half([d0, d1]), half([m0, m1]));
    codes(qs, u32::from_le_bytes([h0, h1, h2, h3]), out, |q| d * q + m);
}

/// The codes of a 32-weight block: byte `i` of `qs` holds weights `i` (low nibble) and `i + 16` (high nibble), bit `j`
/// of `fifth` is worth 16 in weight `j`.
fn codes(qs: &[u8; 16], fifth: u32, out: &mut [f32; 32], value: impl Fn(f32) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (i, ((low, high), &q)) in low.iter_mut().zip(high).zip(qs).enumerate() {
        let bit = |j: usize| ((fifth >> j) & 1) << 4;
        *low = value((u32::from(q & 15) | bit(i)) as f32);
        *high = value((u32::from(q >> 4) | bit(i + 16)) as f32);
    }
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let &[d0, d1, m0, m1, ref rest @ ..] = block;
    let (packed, qs) = split::<12, 128>(rest);
    k_groups([d0, d1], [m0, m1], packed, &[0; 32], qs, out);
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let &[d0, d1, m0, m1, ref rest @ ..] = block;
    let (packed, rest) = split::<12, 160>(rest);
    let (fifth, qs) = split::<32, 128>(rest);
    k_groups([d0, d1], [m0, m1], packed, fifth, qs, out);
}

/// Q4_K and Q5_K: four groups of 64 weights; in group `j` byte `l` of its 32 code bytes holds weights `l` (low nibble,
/// sub-block `2j`) and `32 + l` (high nibble, sub-block `2j + 1`), whose fifth bits are bits `2j` and `2j + 1` of
/// `fifth[l]`.
fn k_groups(d: [u8; 2], dmin: [u8; 2], packed: &[u8; 12], fifth: &[u8; 32], qs: &[u8; 128], out: &mut [f32; 256]) {
    let (d, dmin) = (half(d), half(dmin));
    let sub_blocks = scales_and_minima(packed);
    for (s, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = sub_blocks[s];
        let (d, m) = (d * f32::from(scale), dmin * f32::from(minimum));
        let qs = &qs.as_chunks::<32>().0[s / 2];
        for ((out, &q), &fifth) in out.iter_mut().zip(qs).zip(fifth) {
            let code = ((q >> (4 * (s % 2))) & 15) | (((fifth >> s) & 1) << 4);
            *out = d * f32::from(code) - m;
        }
    }
}

/// The 8 six-bit (scale, minimum) pairs of a Q4_K or Q5_K block.
fn scales_and_minima(packed: &[u8; 12]) -> [(u8, u8); 8] {
    std::array::from_fn(|i| {
        if i < 4 {
            (packed[i] & 63, packed[i + 4] & 63)
        } else {
            // The low 4 bits of both are in the last four bytes; the top 2 bits are above the first four's.
            let low = packed[i + 4];
            ((low & 15) | ((packed[i - 4] >> 6) << 4), (low >> 4) | ((packed[i] >> 6) << 4))
        }
    })
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, rest) = split::<128, 82>(block);
    let (high, rest) = split::<64, 18>(rest);
    let &[ref scales @ .., d0, d1] = rest;
    let d = half([d0, d1]);
    let (low, high) = (low.as_chunks::<64>().0, high.as_chunks::<32>().0);
    // Two halves of 128 weights, each of four runs of 32: runs 0 and 2 share the first 32 bytes of low bits, runs 1 and
    // 3 the last; bits 2·run of one byte of `high` complete them. A scale covers 16 weights.
    for (i, out) in out.iter_mut().enumerate() {
        let (half, run, l) = (i / 128, i / 32 % 4, i % 32);
        let low = (low[half][32 * (run % 2) + l] >> (4 * (run / 2))) & 15;
        let high = (high[half][l] >> (2 * run)) & 3;
        let scale = d * f32::from(scales[i / 16].cast_signed());
        *out = scale * (f32::from(low | (high << 4)) - 32.0);
    }
}

/// Returns the 2-bit code of weight `i` of a super-block: each half of 128 weights has 32 bytes of four codes, which are 32
/// weights apart.
fn two_bits(qs: &[u8; 64], i: usize) -> u8 {
    (qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3
}

fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, rest) = split::<16, 68>(block);
    let (qs, &[d0, d1, m0, m1]) = split::<64, 4>(rest);
    let (d, dmin) = (half([d0, d1]), half([m0, m1]));
    for (i, out) in out.iter_mut().enumerate() {
        let scale = scales[i / 16];
        *out = d * f32::from(scale & 15) * f32::from(two_bits(qs, i)) - dmin * f32::from(scale >> 4);
    }
}

fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (high, rest) = split::<32, 78>(block);
    let (qs, rest) = split::<64, 14>(rest);
    let (packed, &[d0, d1]) = split::<12, 2>(rest);
    let d = half([d0, d1]);
    for (i, out) in out.iter_mut().enumerate() {
        let s = i / 16;
        // The low 4 bits of scales s and s + 8 share a byte, and so do the high 2 bits of scales s, s + 4, s + 8 and s + 12.
        let low = (packed[s % 8] >> (s / 8 * 4)) & 15;
        let top = (packed[8 + s % 4] >> (s / 4 * 2)) & 3;
        let scale = d * (f32::from(low | (top << 4)) - 32.0);
        let fourth = ((high[i % 32] >> (i / 32)) & 1) << 2;
        *out = scale * (f32::from(two_bits(qs, i) | fourth) - 4.0);
    }
}

/// The levels of IQ4_NL and IQ4_XS (ggml's `kvalues_iq4nl`).
const IQ4_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The levels of E2M1, doubled (ggml's `kvalues_mxfp4`).
const E2M1_LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

fn levels(d: f32, levels: &[i8; 16], qs: &[u8; 16], out: &mut [f32; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(qs) {
        *low = d * f32::from(levels[usize::from(q & 15)]);
        *high = d * f32::from(levels[usize::from(q >> 4)]);
    }
}

fn iq4_nl(&[d0, d1, ref qs @ ..]: &[u8; 18], out: &mut [f32; 32]) {
    levels(half([d0, d1]), &IQ4_LEVELS, qs, out);
}

fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let (&[d0, d1, h0, h1, ref low @ ..], qs) = split::<8, 128>(block);
    let (d, high) = (half([d0, d1]), u16::from_le_bytes([h0, h1]));
    for ((s, out), qs) in out.as_chunks_mut::<32>().0.iter_mut().enumerate().zip(qs.as_chunks::<16>().0) {
        let scale = ((low[s / 2] >> (s % 2 * 4)) & 15) | (((high >> (2 * s)) & 3) << 4) as u8;
        levels(d * (f32::from(scale) - 32.0), &IQ4_LEVELS, qs, out);
    }
}

fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let (qs, &[d0, d1]) = split::<64, 2>(block);
    let d = half([d0, d1]);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(two_bits(qs, i)) - 1.0);
    }
}

fn mxfp4(&[e, ref qs @ ..]: &[u8; 17], out: &mut [f32; 32]) {
    levels(half_e8m0(e), &E2M1_LEVELS, qs, out);
}

/// Returns half the value of an E8M0 exponent, 2^(e - 128): the levels are doubled.
fn half_e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}

/// Returns 16-bit word `i`.
fn word16(bytes: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])
}

/// Returns 32-bit word `i`.
fn word32(bytes: &[u8], i: usize) -> u32 {
    u32::from(word16(bytes, 2 * i)) | (u32::from(word16(bytes, 2 * i + 1)) << 16)
}

/// Returns four bits: nibble `i` of the bytes.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    (bytes[i / 2] >> (i % 2 * 4)) & 15
}

/// Returns eight signs from seven bits: the number of ones is even.
fn even_signs(bits: u32) -> u8 {
    let signs = (bits & 127) as u8;
    signs | (((signs.count_ones() & 1) as u8) << 7)
}

/// Returns nibble `i` of a grid's point of eight weights.
fn grid_nibble(point: u32, i: usize) -> u32 {
    (point >> (i % 4 * 8 + i / 4 * 4)) & 15
}

/// Decodes group `i` of eight weights of an IQ2 format.
fn iq2_group(d: f32, point: u32, signs: u8, i: usize, out: &mut [f32; 256]) {
    for (j, out) in out[8 * i..][..8].iter_mut().enumerate() {
        let nibble = grid_nibble(point, j);
        let magnitude = (8 | (nibble & 3) | ((nibble >> 2) << 4)) as f32;
        *out = d * if (signs >> j) & 1 == 0 { magnitude } else { -magnitude };
    }
}

/// Decodes group `i` of eight weights of an IQ3 format.
fn iq3_group(d: f32, points: [u32; 2], signs: u8, i: usize, out: &mut [f32; 256]) {
    for (j, out) in out[8 * i..][..8].iter_mut().enumerate() {
        let magnitude = ((points[j / 4] >> (j % 4 * 8)) & 63) as f32;
        *out = d * if (signs >> j) & 1 == 0 { magnitude } else { -magnitude };
    }
}

/// Decodes group `i` of eight weights of an IQ1 format.
fn iq1_group(d: f32, point: u32, negative: bool, i: usize, out: &mut [f32; 256]) {
    let delta = if negative { -0.125 } else { 0.125 };
    for (j, out) in out[8 * i..][..8].iter_mut().enumerate() {
        *out = d * (grid_nibble(point, j) as f32 - 1.0 + delta);
    }
}

/// Returns the scale of an IQ2 format: an eighth of `d` times the odd number `2·scale + 1`.
fn iq2_scale(d: f32, scale: u32) -> f32 {
    d * (0.5 + scale as f32) * 0.25
}

fn iq2_xxs(&[d0, d1, ref qs @ ..]: &[u8; 66], out: &mut [f32; 256]) {
    let d = half([d0, d1]);
    for i in 0..32 {
        let word = word32(qs, i / 4 * 2 + 1);
        let point = grids::IQ2_XXS[usize::from(qs[i / 4 * 8 + i % 4])];
        iq2_group(iq2_scale(d, word >> 28), point, even_signs(word >> (i % 4 * 7)), i, out);
    }
}

fn iq2_xs(&[d0, d1, ref rest @ ..]: &[u8; 74], out: &mut [f32; 256]) {
    let (d, (qs, scales)) = (half([d0, d1]), split::<64, 8>(rest));
    for i in 0..32 {
        let word = word16(qs, i);
        let point = grids::IQ2_XS[usize::from(word & 511)];
        iq2_group(iq2_scale(d, nibble(scales, i / 2).into()), point, even_signs(u32::from(word >> 9)), i, out);
    }
}

fn iq2_s(&[d0, d1, ref rest @ ..]: &[u8; 82], out: &mut [f32; 256]) {
    let (qs, rest) = split::<32, 48>(rest);
    let (signs, rest) = split::<32, 16>(rest);
    let (d, (high, scales)) = (half([d0, d1]), split::<8, 8>(rest));
    for i in 0..32 {
        let top = usize::from((high[i / 4] >> (i % 4 * 2)) & 3);
        let point = grids::IQ2_S[usize::from(qs[i]) | (top << 8)];
        iq2_group(iq2_scale(d, nibble(scales, i / 2).into()), point, signs[i], i, out);
    }
}

fn iq3_xxs(&[d0, d1, ref rest @ ..]: &[u8; 98], out: &mut [f32; 256]) {
    let (d, (qs, words)) = (half([d0, d1]), split::<64, 32>(rest));
    for i in 0..32 {
        let word = word32(words, i / 4);
        let points = [0, 1].map(|j| grids::IQ3_XXS[usize::from(qs[2 * i + j])]);
        let d = d * (0.5 + (word >> 28) as f32) * 0.5;
        iq3_group(d, points, even_signs(word >> (i % 4 * 7)), i, out);
    }
}

fn iq3_s(&[d0, d1, ref rest @ ..]: &[u8; 110], out: &mut [f32; 256]) {
    let (qs, rest) = split::<64, 44>(rest);
    let (high, rest) = split::<8, 36>(rest);
    let (d, (signs, scales)) = (half([d0, d1]), split::<32, 4>(rest));
    for (i, &signs) in signs.iter().enumerate() {
        let top = |j: usize| usize::from((high[j / 8] >> (j % 8)) & 1) << 8;
        let points = [2 * i, 2 * i + 1].map(|j| grids::IQ3_S[usize::from(qs[j]) | top(j)]);
        let d = d * (1 + 2 * nibble(scales, i / 4)) as f32;
        iq3_group(d, points, signs, i, out);
    }
}

fn iq1_s(&[d0, d1, ref rest @ ..]: &[u8; 50], out: &mut [f32; 256]) {
    let (d, (qs, words)) = (half([d0, d1]), split::<32, 16>(rest));
    for (i, &low) in qs.iter().enumerate() {
        let word = word16(words, i / 4);
        let top = usize::from((word >> (i % 4 * 3)) & 7) << 8;
        let d = d * f32::from(2 * ((word >> 12) & 7) + 1);
        iq1_group(d, grids::IQ1[usize::from(low) | top], word >> 15 == 1, i, out);
    }
}

fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let (qs, rest) = split::<32, 24>(block);
    let (high, scales) = split::<16, 8>(rest);
    // The top four bits of the scales' words are d.
    let d = (0..4).fold(0, |d, i| d | ((word16(scales, i) >> 12) << (4 * i)));
    let d = f16::from_bits(d).to_f32();
    for (i, &low) in qs.iter().enumerate() {
        let high = nibble(high, i);
        let scale = (word16(scales, i / 8) >> (i % 8 / 2 * 3)) & 7;
        let point = grids::IQ1[usize::from(low) | (usize::from(high & 7) << 8)];
        iq1_group(d * f32::from(2 * scale + 1), point, high >> 3 == 1, i, out);
    }
}

fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let (qs, rest) = split::<48, 6>(block);
    let (last, &[d0, d1]) = split::<4, 2>(rest);
    let d = half([d0, d1]);
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    for (i, out) in out.iter_mut().enumerate() {
        let (byte, digit) = match i {
            0..160 => (qs[i % 32], i / 32),
            160..240 => (qs[32 + i % 16], (i - 160) / 16),
            _ => (last[i % 4], (i - 240) / 4),
        };
        // A byte is a fraction of 256 in base 3: a digit is what multiplying by 3 carries out of it.
        let fraction = byte.wrapping_mul(POWERS[digit]);
        *out = d * (f32::from((u16::from(fraction) * 3) >> 8) - 1.0);
    }
}

fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    let (scales, qs) = split::<4, 32>(block);
    for (i, out) in out.iter_mut().enumerate() {
        let (s, j) = (i / 16, i % 16);
        let code = (qs[8 * s + j % 8] >> (j / 8 * 4)) & 15;
        *out = half_ue4m3(scales[s]) * f32::from(E2M1_LEVELS[usize::from(code)]);
    }
}

/// Returns half the value of an unsigned E4M3: the levels are doubled. The sign's bit is not read; 0x7F is NaN in the standard
/// and 0 here.
pub(super) fn half_ue4m3(x: u8) -> f32 {
    match (x & 0x7F) >> 3 {
        _ if x == 0x7F => 0.0,
        0 => f32::from(x & 7) / 1024.0,
        _ => f32::from_bits((u32::from(x & 0x7F) << 20) + (119 << 23)),
    }
}

/// The first `A` bytes and the `B` after them.
fn split<const A: usize, const B: usize>(bytes: &[u8]) -> (&[u8; A], &[u8; B]) {
    // Both lengths are constants of the format, so the fallback is never taken.
    match bytes.split_first_chunk::<A>() {
        Some((head, rest)) => (head, rest.first_chunk().unwrap_or(&[0; B])),
        None => (&[0; A], &[0; B]),
    }
}
