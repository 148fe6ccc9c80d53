// The query heads of a row times 1 + slope * ln(1 + floor(position / length)).
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        let periods = positions[2u * tile.y] / p.length;
        q[tile.y * p.stride + i] *= 1.0 + p.slope * log(1.0 + f32(periods));
    }
}
