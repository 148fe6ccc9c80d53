//! Blocks to f32: the definition of every format, and what kernels are tested against.
//!
//! Each value is computed in f32 in ggml's order of operations, so results equal ggml's (`dequantize_row_*`) and
//! gguf-py's bit for bit.

use super::WeightType;
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

/// The first `A` bytes and the `B` after them.
fn split<const A: usize, const B: usize>(bytes: &[u8]) -> (&[u8; A], &[u8; B]) {
    // Both lengths are constants of the format, so the fallback is never taken.
    match bytes.split_first_chunk::<A>() {
        Some((head, rest)) => (head, rest.first_chunk().unwrap_or(&[0; B])),
        None => (&[0; A], &[0; B]),
    }
}
