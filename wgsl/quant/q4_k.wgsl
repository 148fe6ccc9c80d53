// Q4_K: ggml's super-block as in the file, 9 vec4 for 8 blocks: d and dmin (f16), 12 bytes of 6-bit scales and minima, 128
// bytes of nibbles. Block l has the nibbles of vec4 l: the low ones 32 weights before the high ones.
struct QHeader {
    words: vec4<u32>,
    d: f32,
    dmin: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let words = w[(first >> 3u) * 9u];
    return QHeader(words, q_f16(words.x & 0xffffu), q_f16(words.x >> 16u));
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let qs = w[(first >> 3u) * 9u + 1u + l];
    let s = q_scales(header.words, l >> 1u);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    return QBlock32(
        q_codes(qs & nibbles, (qs >> vec4<u32>(4u)) & nibbles),
        header.d * vec2<f32>(f32(s.x & 0xffu), f32((s.x >> 8u) & 0xffu)),
        -header.dmin * vec2<f32>(f32(s.y & 0xffu), f32((s.y >> 8u) & 0xffu)),
    );
}
