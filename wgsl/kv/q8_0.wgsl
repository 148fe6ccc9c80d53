// A KV cache of Q8_0: the scales of a head's runs of 32 elements as f32, then its int8 codes, four to a word.
const KV_RUN = 16u;

fn kv_scale(head: u32, run: u32) -> f32 {
    return bitcast<f32>(kv[head * KV_HEAD + run]);
}

fn kv_codes(head: u32, pair: u32) -> vec2<f32> {
    let word = kv[head * KV_HEAD + (HEAD_DIM + 31u) / 32u + pair / 2u];
    return vec2<f32>(unpack4xI8(word >> (16u * (pair & 1u))).xy);
}
