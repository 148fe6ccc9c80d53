// The int8 activations of a block: a vec4 holds 16 codes, and each 32 activations have a scale. The row starts at vec4 `row`
// of `x`.
fn in_block32(row: u32, block: u32) -> QInput {
    let halves = vec2<u32>(row << 4u) + q_halves(block);
    let codes = QCodes(x[halves.x >> 4u], x[halves.y >> 4u]);
    let scale = vec2<f32>(scales[halves.x >> 5u], scales[halves.y >> 5u]);
    let ones = vec4<u32>(0x01010101u);
    return QInput(codes, scale, scale * vec2<f32>(q_dot_half(codes.lo, ones), q_dot_half(codes.hi, ones)));
}
