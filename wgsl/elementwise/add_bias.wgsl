// y[t, offset + i] += bias[i].
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        y[tile.y * p.y_stride + p.y_offset + i] += bias[i];
    }
}
