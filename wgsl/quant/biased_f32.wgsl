// Codes that are stored plus a bias, which is subtracted after the conversion: RDNA 3 converts unsigned bytes by an instruction
// each, signed ones by two.
fn q_biased_codes(lo: vec4<u32>, hi: vec4<u32>, bias: u32) -> array<vec4<f32>, 8> {
    let b = vec4<f32>(f32(bias));
    return array<vec4<f32>, 8>(
        q_bytes(lo.x) - b, q_bytes(lo.y) - b, q_bytes(lo.z) - b, q_bytes(lo.w) - b,
        q_bytes(hi.x) - b, q_bytes(hi.y) - b, q_bytes(hi.z) - b, q_bytes(hi.w) - b,
    );
}
