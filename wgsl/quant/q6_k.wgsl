// Q6_K: planes of low nibbles (8 vec4), of high bit pairs (4 vec4), of 16 signed scales (1 vec4) and of d (f16) a super-block.
// Block l has the nibbles of vec4 l: the low ones 64 weights before the high ones.
fn q_halves(block: u32) -> vec2<u32> {
    let lo = ((block >> 3u) << 8u) + (((block >> 2u) & 1u) << 7u) + ((block & 3u) << 4u);
    return vec2<u32>(lo, lo + 64u);
}

fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    return q_block32_at(block & ~7u, block & 7u, blocks);
}

// Returns the plane's words with the high bits of block `l`.
fn q_high_bits(first: u32, l: u32, blocks: u32) -> vec4<u32> {
    return w[((blocks >> 3u) << 3u) + ((first >> 3u) << 2u) + ((l >> 2u) << 1u) + (l & 1u)];
}

fn q_block32_at(first: u32, l: u32, blocks: u32) -> QBlock32 {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let high = q_high_bits(first, l, blocks);
    return q_decode(w[super_blocks * 12u + super_block], q_plane_f16(super_blocks * 13u, super_block), w[first + l], high, l);
}

// Decodes block `l` of a super-block with these scales and d.
fn q_decode(scales: vec4<u32>, d: f32, ql: vec4<u32>, high: vec4<u32>, l: u32) -> QBlock32 {
    // The high bits of blocks l and l + 2 are pairs of the same bytes. Bits that a shift moves between bytes are masked.
    let shift = l & 2u;
    // Scales 8n + part and 8n + 4 + part: the same byte of two neighbouring words.
    let pair = select(scales.xy, scales.zw, l >= 4u);
    let signed = bitcast<vec2<i32>>(pair << vec2<u32>(24u - ((l & 3u) << 3u))) >> vec2<u32>(24u);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let pairs = vec4<u32>(0x30303030u);
    let lo = (ql & nibbles) | ((high << vec4<u32>(4u - shift)) & pairs);
    let hi = ((ql >> vec4<u32>(4u)) & nibbles) | ((high >> vec4<u32>(shift)) & pairs);
    return QBlock32(
        q_biased_codes(lo, hi, 32u),
        d * vec2<f32>(signed),
        vec2<f32>(0.0),
    );
}
