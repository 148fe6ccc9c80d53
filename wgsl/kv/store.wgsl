// A head of kv_four's elements, packed as the format has it, becomes head `to` of the cache: by a workgroup, without a barrier.
fn kv_store_head(to: u32, invocation: u32) {
    for (var i = invocation; i < KV_HEAD / 4u; i += WG) {
        kv[to * (KV_HEAD / 4u) + i] = kv_packed(i);
    }
}
