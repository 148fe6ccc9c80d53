// NVFP4: planes of 32 E2M1 codes (1 vec4) a block, and of four UE4M3 scales (a word) and of the row's scale (f32) for two blocks. Two
// words have the codes of half a block: the low nibbles are its first eight weights.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let qs = w[block];
    let high = qs >> vec4<u32>(4u);
    let codes = q_signed_codes(q_e2m1(vec4<u32>(qs.xy, high.xy)), q_e2m1(vec4<u32>(qs.zw, high.zw)));
    let pair = block >> 1u;
    let bytes = q_plane_word(blocks, pair) >> ((block & 1u) << 4u);
    let row_scale = bitcast<f32>(q_plane_word(blocks + (((blocks >> 1u) + 3u) >> 2u), pair));
    let scales = vec2<f32>(q_half_ue4m3(bytes & 0xffu), q_half_ue4m3((bytes >> 8u) & 0xffu));
    return QBlock32(codes, row_scale * scales, vec2<f32>(0.0));
}

// Returns half the value of an unsigned E4M3; that of 127 is 0. The sign is not read.
fn q_half_ue4m3(byte: u32) -> f32 {
    let bits = byte & 0x7fu;
    let normal = bitcast<f32>((bits << 20u) + 0x3b800000u);
    let finite = select(f32(bits) * 0.0009765625, normal, bits >= 8u);
    return select(finite, 0.0, byte == 0x7fu);
}
