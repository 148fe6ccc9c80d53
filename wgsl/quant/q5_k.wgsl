// Q5_K: ggml's block as it is, 11 vec4 for 8 units: as Q4_K, with 32 bytes of fifth bits between scales and nibbles.
struct QHead {
    header: vec4<u32>,
    d: f32,
    dmin: f32,
}

fn q_head(first: u32, units: u32) -> QHead {
    let header = w[(first >> 3u) * 11u];
    return QHead(header, q_half(header.x & 0xffffu), q_half(header.x >> 16u));
}

fn q_unit_of(head: QHead, first: u32, l: u32, units: u32) -> QUnit {
    let at = (first >> 3u) * 11u;
    let pair = l >> 1u;
    let header = head.header;
    let high = w[at + 1u + (l & 1u)] >> vec4<u32>(pair << 1u);
    let qs = w[at + 3u + l];
    let s = q_scales(header, pair);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let ones = vec4<u32>(0x01010101u);
    let lo = (qs & nibbles) | ((high & ones) << vec4<u32>(4u));
    let hi = ((qs >> vec4<u32>(4u)) & nibbles) | (((high >> vec4<u32>(1u)) & ones) << vec4<u32>(4u));
    return QUnit(
        q_codes(lo, hi),
        head.d * vec2<f32>(f32(s.x & 0xffu), f32((s.x >> 8u) & 0xffu)),
        -head.dmin * vec2<f32>(f32(s.y & 0xffu), f32((s.y >> 8u) & 0xffu)),
    );
}
