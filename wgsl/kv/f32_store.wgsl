// Stores a head as f32.
fn kv_packed(i: u32) -> vec4<u32> {
    return bitcast<vec4<u32>>(kv_vec4(i));
}

fn kv_head_words() -> u32 {
    return 4u * ((head_dim() + 3u) / 4u);
}
