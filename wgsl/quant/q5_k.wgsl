// Q5_K: ggml's super-block as in the file, 11 vec4 for 8 blocks: as Q4_K, with 32 bytes of fifth bits between scales and
// nibbles.
struct QHeader {
    words: vec4<u32>,
    d: f32,
    dmin: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let words = w[(first >> 3u) * 11u];
    return QHeader(words, q_f16(words.x & 0xffffu), q_f16(words.x >> 16u));
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let at = (first >> 3u) * 11u;
    let i = l >> 1u;
    let high = w[at + 1u + (l & 1u)] >> vec4<u32>(i << 1u);
    let qs = w[at + 3u + l];
    let s = q_scales(header.words, i);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let ones = vec4<u32>(0x01010101u);
    let lo = (qs & nibbles) | ((high & ones) << vec4<u32>(4u));
    let hi = ((qs >> vec4<u32>(4u)) & nibbles) | (((high >> vec4<u32>(1u)) & ones) << vec4<u32>(4u));
    return QBlock32(
        q_codes(lo, hi),
        header.d * vec2<f32>(f32(s.x & 0xffu), f32((s.x >> 8u) & 0xffu)),
        -header.dmin * vec2<f32>(f32(s.y & 0xffu), f32((s.y >> 8u) & 0xffu)),
    );
}
