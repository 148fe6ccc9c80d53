// Attended values leave attention as they are.
fn attn_output(at: u32, values: vec4<f32>) -> vec4<f32> {
    return values;
}
