// A KV cache of f32: two words a pair of neighbouring elements. There is no scale: a head is one run.
const KV_RUN = HEAD_DIM / 2u;

fn kv_scale(head: u32, run: u32) -> f32 {
    return 1.0;
}

fn kv_codes(head: u32, pair: u32) -> vec2<f32> {
    let at = head * KV_HEAD + 2u * pair;
    return bitcast<vec2<f32>>(vec2<u32>(kv[at], kv[at + 1u]));
}
