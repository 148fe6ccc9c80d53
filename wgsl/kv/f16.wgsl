// A KV cache of f16: a word a pair of neighbouring elements. There is no scale: a head is one run.
const KV_RUN = HEAD_DIM / 2u;

fn kv_scale(head: u32, run: u32) -> f32 {
    return 1.0;
}

fn kv_codes(head: u32, pair: u32) -> vec2<f32> {
    return unpack2x16float(kv[head * KV_HEAD + pair]);
}
