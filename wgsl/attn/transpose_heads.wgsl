// Transposes head-major heads to token-major ones, an invocation an element.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    let width = p.heads * p.head_dim;
    if i < width {
        let head = i / p.head_dim;
        y[tile.y * width + i] = x[(head * p.rows + tile.y) * p.head_dim + i - head * p.head_dim];
    }
}
