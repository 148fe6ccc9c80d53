// The keys that the last of `context` tokens sees, first and end: all, or those of a sliding window.
fn kv_visible(context: u32) -> vec2<u32> {
    return vec2<u32>(select(context - min(context, p.window), 0u, p.window == 0u), context);
}
