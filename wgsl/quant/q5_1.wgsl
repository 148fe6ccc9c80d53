// Q5_1: planes of 32 nibbles (1 vec4), of fifth bits (a word) and of d with minimum (two halves in a word) a block.
fn q_unit(unit: u32, units: u32) -> QUnit {
    let qs = w[unit];
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let high = q_plane_word(units, unit);
    let dm = q_plane_word(units + ((units + 3u) >> 2u), unit);
    let codes = q_codes((qs & nibbles) | q_fifth_bits(high), ((qs >> vec4<u32>(4u)) & nibbles) | q_fifth_bits(high >> 16u));
    return QUnit(codes, vec2<f32>(q_half(dm & 0xffffu)), vec2<f32>(q_half(dm >> 16u)));
}
