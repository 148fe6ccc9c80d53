// NVFP4: planes of 32 E2M1 codes (1 vec4) a block and of four UE4M3 scales (a word) for two blocks. Two words have the codes of half
// a block: the low nibbles are its first eight weights.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let qs = w[block];
    let high = qs >> vec4<u32>(4u);
    let codes = q_signed_codes(q_e2m1(vec4<u32>(qs.xy, high.xy)), q_e2m1(vec4<u32>(qs.zw, high.zw)));
    let scales = q_plane_word(blocks, block >> 1u) >> ((block & 1u) << 4u);
    return QBlock32(codes, vec2<f32>(q_half_ue4m3(scales & 0xffu), q_half_ue4m3((scales >> 8u) & 0xffu)), vec2<f32>(0.0));
}

// Returns half the value of an unsigned E4M3; that of 127 is 0. The sign is not read.
fn q_half_ue4m3(byte: u32) -> f32 {
    let bits = byte & 0x7fu;
    let normal = bitcast<f32>((bits << 20u) + 0x3b800000u);
    let finite = select(f32(bits) * 0.0009765625, normal, bits >= 8u);
    return select(finite, 0.0, byte == 0x7fu);
}
