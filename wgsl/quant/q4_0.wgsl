// Q4_0: planes of 32 nibbles (1 vec4) and of d (f16) a block; codes are stored plus 8.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let qs = w[block];
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let codes = q_biased_codes(qs & nibbles, (qs >> vec4<u32>(4u)) & nibbles, 8u);
    return QBlock32(codes, vec2<f32>(q_plane_f16(blocks, block)), vec2<f32>(0.0));
}
