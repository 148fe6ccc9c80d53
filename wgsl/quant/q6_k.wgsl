// Q6_K: planes of low nibbles (8 vec4), of high bit pairs (4 vec4), of 16 signed scales (1 vec4) and of d (half) a block.
// Unit l of a block has the nibbles of its vec4 number l: the low ones 64 weights before the high ones.
fn q_runs(unit: u32) -> vec2<u32> {
    let lo = ((unit >> 3u) << 8u) + (((unit >> 2u) & 1u) << 7u) + ((unit & 3u) << 4u);
    return vec2<u32>(lo, lo + 64u);
}

struct QHead {
    scales: vec4<u32>,
    d: f32,
    pairs: array<vec4<u32>, 4>,
}

fn q_head(first: u32, units: u32) -> QHead {
    let block = first >> 3u;
    let blocks = units >> 3u;
    let at = (blocks << 3u) + (block << 2u);
    let pairs = array<vec4<u32>, 4>(w[at], w[at + 1u], w[at + 2u], w[at + 3u]);
    return QHead(w[blocks * 12u + block], q_plane_half(blocks * 13u, block), pairs);
}

fn q_unit_of(head: QHead, first: u32, l: u32, units: u32) -> QUnit {
    let odd = (l & 1u) != 0u;
    let front = select(head.pairs[0], head.pairs[1], odd);
    let back = select(head.pairs[2], head.pairs[3], odd);
    return q_decode(head.scales, head.d, w[first + l], select(front, back, l >= 4u), l);
}

// A unit alone: of the high pairs only its own are read.
fn q_unit(unit: u32, units: u32) -> QUnit {
    let l = unit & 7u;
    let block = unit >> 3u;
    let blocks = units >> 3u;
    let pairs = w[(blocks << 3u) + (block << 2u) + ((l >> 2u) << 1u) + (l & 1u)];
    return q_decode(w[blocks * 12u + block], q_plane_half(blocks * 13u, block), w[unit], pairs, l);
}

// Unit `l` of a block of these scales and d.
fn q_decode(scales: vec4<u32>, d: f32, ql: vec4<u32>, high: vec4<u32>, l: u32) -> QUnit {
    let part = l & 3u;
    let qh = high >> vec4<u32>((part >> 1u) << 1u);
    // Scales 8n + part and 8n + 4 + part: the same byte of two neighbouring words.
    let pair = select(scales.xy, scales.zw, l >= 4u);
    let signed = bitcast<vec2<i32>>(pair << vec2<u32>(24u - (part << 3u))) >> vec2<u32>(24u);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let pairs = vec4<u32>(0x03030303u);
    let lo = (ql & nibbles) | ((qh & pairs) << vec4<u32>(4u));
    let hi = ((ql >> vec4<u32>(4u)) & nibbles) | (((qh >> vec4<u32>(4u)) & pairs) << vec4<u32>(4u));
    return QUnit(
        q_signed_codes(q_less(lo, 0x20202020u), q_less(hi, 0x20202020u)),
        d * vec2<f32>(signed),
        vec2<f32>(0.0),
    );
}
