// F16: 4 vec4 a unit, two halves a word.
fn q_halves(word: u32) -> vec2<f32> {
    return vec2<f32>(q_half(word & 0xffffu), q_half(word >> 16u));
}

fn q_unit(unit: u32, units: u32) -> QUnit {
    let at = unit << 2u;
    let a = w[at];
    let b = w[at + 1u];
    let c = w[at + 2u];
    let d = w[at + 3u];
    let q = array<vec4<f32>, 8>(
        vec4<f32>(q_halves(a.x), q_halves(a.y)), vec4<f32>(q_halves(a.z), q_halves(a.w)),
        vec4<f32>(q_halves(b.x), q_halves(b.y)), vec4<f32>(q_halves(b.z), q_halves(b.w)),
        vec4<f32>(q_halves(c.x), q_halves(c.y)), vec4<f32>(q_halves(c.z), q_halves(c.w)),
        vec4<f32>(q_halves(d.x), q_halves(d.y)), vec4<f32>(q_halves(d.z), q_halves(d.w)),
    );
    return QUnit(q, vec2<f32>(1.0), vec2<f32>(0.0));
}
