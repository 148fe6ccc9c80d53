// Q5_0: planes of 32 nibbles (1 vec4), of fifth bits (a word) and of d (f16) a block; codes are stored plus 16.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let qs = w[block];
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let high = q_plane_word(blocks, block);
    let lo = (qs & nibbles) | q_fifth_bits(high);
    let hi = ((qs >> vec4<u32>(4u)) & nibbles) | q_fifth_bits(high >> 16u);
    let d = q_plane_f16(blocks + ((blocks + 3u) >> 2u), block);
    return QBlock32(q_biased_codes(lo, hi, 16u), vec2<f32>(d), vec2<f32>(0.0));
}
