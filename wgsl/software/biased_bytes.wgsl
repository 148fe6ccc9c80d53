// Codes that are stored plus a bias, which is subtracted from four bytes at once.
fn q_biased_codes(lo: vec4<u32>, hi: vec4<u32>, bias: u32) -> array<vec4<f32>, 8> {
    let bytes = bias * 0x01010101u;
    return q_signed_codes(q_less(lo, bytes), q_less(hi, bytes));
}
