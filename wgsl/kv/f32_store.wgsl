fn kv_store_head(to: u32, invocation: u32) {
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        kv[to * KV_HEAD + i] = bitcast<u32>(head_values[i]);
    }
}
