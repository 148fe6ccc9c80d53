// Q4_0: planes of 32 nibbles (1 vec4) and of d (half) a block; codes are 8 too large.
fn q_unit(unit: u32, units: u32) -> QUnit {
    let qs = w[unit];
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let lo = q_less(qs & nibbles, 0x08080808u);
    let hi = q_less((qs >> vec4<u32>(4u)) & nibbles, 0x08080808u);
    return QUnit(q_signed_codes(lo, hi), vec2<f32>(q_plane_half(units, unit)), vec2<f32>(0.0));
}
