// Q8_0: planes of 32 signed bytes (2 vec4) and of d (f16) a block.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let at = block << 1u;
    let d = q_plane_f16(blocks << 1u, block);
    return QBlock32(q_signed_codes(w[at], w[at + 1u]), vec2<f32>(d), vec2<f32>(0.0));
}
