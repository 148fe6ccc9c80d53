// F32: 8 vec4 a block.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let at = block << 3u;
    let q = array<vec4<f32>, 8>(
        bitcast<vec4<f32>>(w[at]), bitcast<vec4<f32>>(w[at + 1u]),
        bitcast<vec4<f32>>(w[at + 2u]), bitcast<vec4<f32>>(w[at + 3u]),
        bitcast<vec4<f32>>(w[at + 4u]), bitcast<vec4<f32>>(w[at + 5u]),
        bitcast<vec4<f32>>(w[at + 6u]), bitcast<vec4<f32>>(w[at + 7u]),
    );
    return QBlock32(q, vec2<f32>(1.0), vec2<f32>(0.0));
}
