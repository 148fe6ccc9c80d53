// Shared by the formats with codes of two bits in super-blocks: where the halves of a block lie, and its codes. A super-block
// has 4 vec4 of codes. Blocks 2i and 2i + 1 have the low and the high four bits of the bytes of vec4 i.
fn q_halves(block: u32) -> vec2<u32> {
    let lo = ((block >> 2u) << 7u) + ((block & 1u) << 6u) + (((block >> 1u) & 1u) << 4u);
    return vec2<u32>(lo, lo + 32u);
}

// The codes of both halves of a block.
struct QTwoBits {
    lo: vec4<u32>,
    hi: vec4<u32>,
}

// Returns the codes of block `l` of the super-block that begins at block `first`.
fn q_two_bits(first: u32, l: u32) -> QTwoBits {
    let qs = w[(first >> 1u) + (l >> 1u)] >> vec4<u32>((l & 1u) << 2u);
    let pairs = vec4<u32>(0x03030303u);
    return QTwoBits(qs & pairs, (qs >> vec4<u32>(2u)) & pairs);
}

// Returns the bytes of 16 scales that belong to the halves of block `l`.
fn q_scale_bytes(scales: vec4<u32>, l: u32) -> vec2<u32> {
    let word = q_word(scales, ((l >> 2u) << 1u) | (l & 1u)) >> (((l >> 1u) & 1u) << 3u);
    return vec2<u32>(word, word >> 16u) & vec2<u32>(0xffu);
}
