// y[t, y_offset + i] += factor * x[t, x_offset + i].
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        y[tile.y * p.y_stride + p.y_offset + i] += p.factor * x[tile.y * p.x_stride + p.x_offset + i];
    }
}
