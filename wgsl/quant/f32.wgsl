// F32: 8 vec4 a unit.
fn q_unit(unit: u32, units: u32) -> QUnit {
    let at = unit << 3u;
    let q = array<vec4<f32>, 8>(
        bitcast<vec4<f32>>(w[at]), bitcast<vec4<f32>>(w[at + 1u]),
        bitcast<vec4<f32>>(w[at + 2u]), bitcast<vec4<f32>>(w[at + 3u]),
        bitcast<vec4<f32>>(w[at + 4u]), bitcast<vec4<f32>>(w[at + 5u]),
        bitcast<vec4<f32>>(w[at + 6u]), bitcast<vec4<f32>>(w[at + 7u]),
    );
    return QUnit(q, vec2<f32>(1.0), vec2<f32>(0.0));
}
