// Conversion of f16 by the device, where its self-test has found that unpack2x16float keeps subnormals.

// Returns the value of the f16 in the low 16 bits.
fn q_f16(bits: u32) -> f32 {
    return unpack2x16float(bits).x;
}
