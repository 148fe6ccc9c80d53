// Q6_K: planes of low nibbles (8 vec4), of high bit pairs (4 vec4), of 16 signed scales (1 vec4) and of d (f16) a super-block.
// Block l has the nibbles of vec4 l: the low ones 64 weights before the high ones.
fn q_halves(block: u32) -> vec2<u32> {
    let lo = ((block >> 3u) << 8u) + (((block >> 2u) & 1u) << 7u) + ((block & 3u) << 4u);
    return vec2<u32>(lo, lo + 64u);
}

struct QHeader {
    scales: vec4<u32>,
    d: f32,
    high: array<vec4<u32>, 4>,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let at = (super_blocks << 3u) + (super_block << 2u);
    let high = array<vec4<u32>, 4>(w[at], w[at + 1u], w[at + 2u], w[at + 3u]);
    return QHeader(w[super_blocks * 12u + super_block], q_plane_f16(super_blocks * 13u, super_block), high);
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let odd = (l & 1u) != 0u;
    let front = select(header.high[0], header.high[1], odd);
    let back = select(header.high[2], header.high[3], odd);
    return q_decode(header.scales, header.d, w[first + l], select(front, back, l >= 4u), l);
}

// Decodes a block alone: reads only its own high bits.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let l = block & 7u;
    let super_block = block >> 3u;
    let super_blocks = blocks >> 3u;
    let high = w[(super_blocks << 3u) + (super_block << 2u) + ((l >> 2u) << 1u) + (l & 1u)];
    return q_decode(w[super_blocks * 12u + super_block], q_plane_f16(super_blocks * 13u, super_block), w[block], high, l);
}

// Decodes block `l` of a super-block with these scales and d.
fn q_decode(scales: vec4<u32>, d: f32, ql: vec4<u32>, high: vec4<u32>, l: u32) -> QBlock32 {
    let part = l & 3u;
    let qh = high >> vec4<u32>((part >> 1u) << 1u);
    // Scales 8n + part and 8n + 4 + part: the same byte of two neighbouring words.
    let pair = select(scales.xy, scales.zw, l >= 4u);
    let signed = bitcast<vec2<i32>>(pair << vec2<u32>(24u - (part << 3u))) >> vec2<u32>(24u);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let pairs = vec4<u32>(0x03030303u);
    let lo = (ql & nibbles) | ((qh & pairs) << vec4<u32>(4u));
    let hi = ((ql >> vec4<u32>(4u)) & nibbles) | (((qh >> vec4<u32>(4u)) & pairs) << vec4<u32>(4u));
    return QBlock32(
        q_biased_codes(lo, hi, 32u),
        d * vec2<f32>(signed),
        vec2<f32>(0.0),
    );
}
