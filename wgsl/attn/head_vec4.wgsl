// Four elements of the head in workgroup memory.
fn head_vec4(i: u32) -> vec4<f32> {
    let at = 4u * min(i, p.head_dim / 4u - 1u);
    return vec4<f32>(head_values[at], head_values[at + 1u], head_values[at + 2u], head_values[at + 3u]);
}

fn kv_vec4(i: u32) -> vec4<f32> {
    return head_vec4(i);
}
