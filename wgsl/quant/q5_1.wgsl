// Q5_1: planes of 32 nibbles (1 vec4), of fifth bits (a word) and of d with minimum (two f16 in a word) a block.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let qs = w[block];
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let high = q_plane_word(blocks, block);
    let dm = q_plane_word(blocks + ((blocks + 3u) >> 2u), block);
    let codes = q_codes((qs & nibbles) | q_fifth_bits(high), ((qs >> vec4<u32>(4u)) & nibbles) | q_fifth_bits(high >> 16u));
    return QBlock32(codes, vec2<f32>(q_f16(dm & 0xffffu)), vec2<f32>(q_f16(dm >> 16u)));
}
