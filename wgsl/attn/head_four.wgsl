// Four elements of the head in workgroup memory.
fn head_four(i: u32) -> vec4<f32> {
    let at = 4u * min(i, HEAD_DIM / 4u - 1u);
    return vec4<f32>(head_values[at], head_values[at + 1u], head_values[at + 2u], head_values[at + 3u]);
}

fn kv_four(i: u32) -> vec4<f32> {
    return head_four(i);
}
