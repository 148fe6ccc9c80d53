// Q4_K: ggml's block as it is, 9 vec4 for 8 units: d and dmin (halves), 12 bytes of 6-bit scales and minima, 128 bytes
// of nibbles. Unit l of a block has the nibbles of its vec4 number l: the low ones 32 weights before the high ones.
struct QHead {
    header: vec4<u32>,
    d: f32,
    dmin: f32,
}

fn q_head(first: u32, units: u32) -> QHead {
    let header = w[(first >> 3u) * 9u];
    return QHead(header, q_half(header.x & 0xffffu), q_half(header.x >> 16u));
}

fn q_unit_of(head: QHead, first: u32, l: u32, units: u32) -> QUnit {
    let header = head.header;
    let qs = w[(first >> 3u) * 9u + 1u + l];
    let s = q_scales(header, l >> 1u);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    return QUnit(
        q_codes(qs & nibbles, (qs >> vec4<u32>(4u)) & nibbles),
        head.d * vec2<f32>(f32(s.x & 0xffu), f32((s.x >> 8u) & 0xffu)),
        -head.dmin * vec2<f32>(f32(s.y & 0xffu), f32((s.y >> 8u) & 0xffu)),
    );
}
