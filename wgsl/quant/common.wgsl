// Helpers of the formats. A format says where the halves of a block lie and decodes the block into the slot `codes`.

// Returns component `i` of `v`, without indexing by a variable.
fn q_word(v: vec4<u32>, i: u32) -> u32 {
    let pair = select(v.xy, v.zw, (i & 2u) != 0u);
    return select(pair.x, pair.y, (i & 1u) != 0u);
}

// Returns pair `i` of the words of `v`.
fn q_word_pair(v: vec4<u32>, i: u32) -> vec2<u32> {
    return select(v.xy, v.zw, (i & 1u) != 0u);
}

// Returns word `i` of a plane of words that starts at vec4 `plane`.
fn q_plane_word(plane: u32, i: u32) -> u32 {
    return q_word(w[plane + (i >> 2u)], i);
}

// Returns element `i` of a plane of f16 that starts at vec4 `plane`.
fn q_plane_f16(plane: u32, i: u32) -> f32 {
    return q_f16((q_plane_word(plane, i >> 1u) >> ((i & 1u) << 4u)) & 0xffffu);
}

// Subtracts `bias` from bytes below 128, without a borrow between bytes. The result is signed.
fn q_less(bytes: vec4<u32>, bias: u32) -> vec4<u32> {
    return ((bytes | vec4<u32>(0x80808080u)) - vec4<u32>(bias)) ^ vec4<u32>(0x80808080u);
}

// Spreads the low 16 bits of `bits` to bit 4 of 16 bytes: the fifth bits of half a block of codes.
fn q_fifth_bits(bits: u32) -> vec4<u32> {
    let nibbles = vec4<u32>(bits) >> vec4<u32>(0u, 4u, 8u, 12u);
    return ((nibbles & vec4<u32>(1u)) << vec4<u32>(4u)) | ((nibbles & vec4<u32>(2u)) << vec4<u32>(11u))
        | ((nibbles & vec4<u32>(4u)) << vec4<u32>(18u)) | ((nibbles & vec4<u32>(8u)) << vec4<u32>(25u));
}
