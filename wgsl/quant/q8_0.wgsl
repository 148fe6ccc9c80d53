// Q8_0: planes of 32 signed bytes (2 vec4) and of d (half) a block.
fn q_unit(unit: u32, units: u32) -> QUnit {
    let at = unit << 1u;
    let d = q_plane_half(units << 1u, unit);
    return QUnit(q_signed_codes(w[at], w[at + 1u]), vec2<f32>(d), vec2<f32>(0.0));
}
