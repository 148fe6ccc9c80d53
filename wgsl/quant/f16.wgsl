// F16: 4 vec4 a block, two f16 a word.
fn q_f16x2(word: u32) -> vec2<f32> {
    return vec2<f32>(q_f16(word & 0xffffu), q_f16(word >> 16u));
}

fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let at = block << 2u;
    let a = w[at];
    let b = w[at + 1u];
    let c = w[at + 2u];
    let d = w[at + 3u];
    let q = array<vec4<f32>, 8>(
        vec4<f32>(q_f16x2(a.x), q_f16x2(a.y)), vec4<f32>(q_f16x2(a.z), q_f16x2(a.w)),
        vec4<f32>(q_f16x2(b.x), q_f16x2(b.y)), vec4<f32>(q_f16x2(b.z), q_f16x2(b.w)),
        vec4<f32>(q_f16x2(c.x), q_f16x2(c.y)), vec4<f32>(q_f16x2(c.z), q_f16x2(c.w)),
        vec4<f32>(q_f16x2(d.x), q_f16x2(d.y)), vec4<f32>(q_f16x2(d.z), q_f16x2(d.w)),
    );
    return QBlock32(q, vec2<f32>(1.0), vec2<f32>(0.0));
}
