// MoE combine: residual[t] += the weighted sum of the token's expert outputs.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        residual[tile.y * p.n + i] += moe_expert_sum(tile.y, i, opaque_zero(workgroup));
    }
}
