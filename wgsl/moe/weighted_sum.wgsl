// residual[t] = the weighted sum of its experts' outputs, or that added to it.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        let sum = moe_weighted(tile.y, i, grid_zero(workgroup));
        let at = tile.y * p.n + i;
        if ADD {
            residual[at] += sum;
        } else {
            residual[at] = sum;
        }
    }
}
