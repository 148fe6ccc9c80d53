// A KV cache of Q8_0: an f32 scale for each 32 elements of a head, then its int8 codes, four to a word. Both are padded
// to 16 bytes.
const KV_VEC8_LOADS = 2u;

fn kv_load(head: u32, i: u32) -> Vec8 {
    let scales = bitcast<vec4<f32>>(kv[head + (i >> 4u)]);
    let group = i >> 2u;
    let pair = select(scales.xy, scales.zw, (group & 2u) != 0u);
    let scale = select(pair.x, pair.y, (group & 1u) != 0u);
    let words = kv[head + (HEAD_DIM + 127u) / 128u + (i >> 1u)];
    let codes = select(words.xy, words.zw, (i & 1u) != 0u);
    return Vec8(scale * vec4<f32>(unpack4xI8(codes.x)), scale * vec4<f32>(unpack4xI8(codes.y)));
}
