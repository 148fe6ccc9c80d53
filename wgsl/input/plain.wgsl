// Activations are taken as they are.
fn in_ready(row: u32, invocation: u32) {}

fn in_load(row: u32, i: u32) -> vec4<f32> {
    return x[row + i];
}
