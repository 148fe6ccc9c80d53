// y[t, offset + i] += bias[i].
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        y[tile.y * p.y_stride + p.y_offset + i] += bias[i];
    }
}
