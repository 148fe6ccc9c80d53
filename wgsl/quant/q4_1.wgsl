// Q4_1: planes of 32 nibbles (1 vec4) and of d with minimum (two halves in a word) a block.
fn q_unit(unit: u32, units: u32) -> QUnit {
    let qs = w[unit];
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let dm = q_plane_word(units, unit);
    let codes = q_codes(qs & nibbles, (qs >> vec4<u32>(4u)) & nibbles);
    return QUnit(codes, vec2<f32>(q_half(dm & 0xffffu)), vec2<f32>(q_half(dm >> 16u)));
}
