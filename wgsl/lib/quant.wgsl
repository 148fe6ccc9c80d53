// What the formats' files share. A format says where the runs of a unit lie and decodes it, by the slot `codes`.

// The value of an IEEE half in the low 16 bits. By integers: block scales are often subnormal halves, and a device may
// flush those in unpack2x16float.
fn q_half(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffu;
    let sign = (bits & 0x8000u) << 16u;
    let normal = (magnitude << 13u) + 0x38000000u;
    let subnormal = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    return bitcast<f32>(sign | select(subnormal, normal, magnitude >= 0x400u));
}

// Component `i` of `v`, without indexing by a variable.
fn q_word(v: vec4<u32>, i: u32) -> u32 {
    let pair = select(v.xy, v.zw, (i & 2u) != 0u);
    return select(pair.x, pair.y, (i & 1u) != 0u);
}

// Word `i` of a plane of words that starts at vec4 `plane`.
fn q_plane_word(plane: u32, i: u32) -> u32 {
    return q_word(w[plane + (i >> 2u)], i);
}

// Half `i` of a plane of halves that starts at vec4 `plane`.
fn q_plane_half(plane: u32, i: u32) -> f32 {
    return q_half((q_plane_word(plane, i >> 1u) >> ((i & 1u) << 4u)) & 0xffffu);
}

// Bytes below 128, less `bias` in each byte: signed bytes, without a borrow between them.
fn q_less(bytes: vec4<u32>, bias: u32) -> vec4<u32> {
    return ((bytes | vec4<u32>(0x80808080u)) - vec4<u32>(bias)) ^ vec4<u32>(0x80808080u);
}

// The low 16 bits of `bits`, one a byte, at bit 4: the fifth bits of a run's codes.
fn q_fifth_bits(bits: u32) -> vec4<u32> {
    let nibbles = vec4<u32>(bits) >> vec4<u32>(0u, 4u, 8u, 12u);
    return ((nibbles & vec4<u32>(1u)) << vec4<u32>(4u)) | ((nibbles & vec4<u32>(2u)) << vec4<u32>(11u))
        | ((nibbles & vec4<u32>(4u)) << vec4<u32>(18u)) | ((nibbles & vec4<u32>(8u)) << vec4<u32>(25u));
}
