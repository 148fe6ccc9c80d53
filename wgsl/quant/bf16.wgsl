// BF16: 4 vec4 a block, two bf16 a word.
fn q_uppers(lo: u32, hi: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(lo << 16u, lo & 0xffff0000u, hi << 16u, hi & 0xffff0000u));
}

fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let at = block << 2u;
    let a = w[at];
    let b = w[at + 1u];
    let c = w[at + 2u];
    let d = w[at + 3u];
    let q = array<vec4<f32>, 8>(
        q_uppers(a.x, a.y), q_uppers(a.z, a.w), q_uppers(b.x, b.y), q_uppers(b.z, b.w),
        q_uppers(c.x, c.y), q_uppers(c.z, c.w), q_uppers(d.x, d.y), q_uppers(d.z, d.w),
    );
    return QBlock32(q, vec2<f32>(1.0), vec2<f32>(0.0));
}
