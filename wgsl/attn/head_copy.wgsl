// Loads a head into workgroup memory as it is.
var<workgroup> head_values: array<f32, MAX_HEAD_DIM>;

fn head_ready(row: u32, head: u32, role: u32, invocation: u32) {
    for (var i = invocation; i < p.head_dim; i += WG) {
        head_values[i] = head_input(row, head, i);
    }
    workgroupBarrier();
}
