// Q6_K: planes of low nibbles (8 vec4), of high bit pairs (4 vec4), of 16 signed scales (1 vec4) and of d (half) a block.
// Unit l of a block has the nibbles of its vec4 number l: the low ones 64 weights before the high ones.
fn q_runs(unit: u32) -> vec2<u32> {
    let lo = ((unit >> 3u) << 8u) + (((unit >> 2u) & 1u) << 7u) + ((unit & 3u) << 4u);
    return vec2<u32>(lo, lo + 64u);
}

struct QHead {
    scales: vec4<u32>,
    d: f32,
}

fn q_head(first: u32, units: u32) -> QHead {
    let block = first >> 3u;
    let blocks = units >> 3u;
    return QHead(w[blocks * 12u + block], q_plane_half(blocks * 13u, block));
}

fn q_unit_of(head: QHead, first: u32, l: u32, units: u32) -> QUnit {
    let block = first >> 3u;
    let blocks = units >> 3u;
    let n = l >> 2u;
    let part = l & 3u;
    let ql = w[first + l];
    let qh = w[(blocks << 3u) + (block << 2u) + (n << 1u) + (part & 1u)] >> vec4<u32>((part >> 1u) << 1u);
    // Scales 8n + part and 8n + 4 + part: the same byte of two neighbouring words.
    let pair = select(head.scales.xy, head.scales.zw, n == 1u);
    let signed = bitcast<vec2<i32>>(pair << vec2<u32>(24u - (part << 3u))) >> vec2<u32>(24u);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let pairs = vec4<u32>(0x03030303u);
    let lo = (ql & nibbles) | ((qh & pairs) << vec4<u32>(4u));
    let hi = ((ql >> vec4<u32>(4u)) & nibbles) | (((qh >> vec4<u32>(4u)) & pairs) << vec4<u32>(4u));
    return QUnit(
        q_signed_codes(q_less(lo, 0x20202020u), q_less(hi, 0x20202020u)),
        head.d * vec2<f32>(signed),
        vec2<f32>(0.0),
    );
}
