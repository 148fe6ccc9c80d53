// Conversion of f16 by integers. Block scales are often subnormal, and a device may flush subnormals in unpack2x16float.

// Returns the value of the f16 in the low 16 bits.
fn q_f16(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffu;
    let sign = (bits & 0x8000u) << 16u;
    let normal = (magnitude << 13u) + 0x38000000u;
    let subnormal = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    return bitcast<f32>(sign | select(subnormal, normal, magnitude >= 0x400u));
}
