// Q5_0: planes of 32 nibbles (1 vec4), of fifth bits (a word) and of d (half) a block; codes are 16 too large.
fn q_unit(unit: u32, units: u32) -> QUnit {
    let qs = w[unit];
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let high = q_plane_word(units, unit);
    let lo = q_less((qs & nibbles) | q_fifth_bits(high), 0x10101010u);
    let hi = q_less(((qs >> vec4<u32>(4u)) & nibbles) | q_fifth_bits(high >> 16u), 0x10101010u);
    let d = q_plane_half(units + ((units + 3u) >> 2u), unit);
    return QUnit(q_signed_codes(lo, hi), vec2<f32>(d), vec2<f32>(0.0));
}
