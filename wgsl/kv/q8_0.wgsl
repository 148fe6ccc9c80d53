// A KV cache of Q8_0: the scales of a head's runs of 32 elements as f32, then its int8 codes, four to a word. Both are
// padded to 16 bytes.
fn kv_load(head: u32, i: u32) -> KvEight {
    let scales = bitcast<vec4<f32>>(kv[head + (i >> 4u)]);
    let run = i >> 2u;
    let pair = select(scales.xy, scales.zw, (run & 2u) != 0u);
    let scale = select(pair.x, pair.y, (run & 1u) != 0u);
    let words = kv[head + (HEAD_DIM + 127u) / 128u + (i >> 1u)];
    let codes = select(words.xy, words.zw, (i & 1u) != 0u);
    return KvEight(scale * vec4<f32>(unpack4xI8(codes.x)), scale * vec4<f32>(unpack4xI8(codes.y)));
}
