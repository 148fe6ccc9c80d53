// Packs the elements of kv_vec4 into head `to` of the cache, by a workgroup and without a barrier.
fn kv_store_head(to: u32, invocation: u32) {
    for (var i = invocation; i < kv_head_words() / 4u; i += WG) {
        kv[to * (kv_head_words() / 4u) + i] = kv_packed(i);
    }
}
