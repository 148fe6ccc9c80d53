// A head of a row as it is, in workgroup memory.
var<workgroup> head_values: array<f32, HEAD_DIM>;

fn head_ready(row: u32, head: u32, role: u32, invocation: u32) {
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        head_values[i] = head_input(row, head, i);
    }
    workgroupBarrier();
}
