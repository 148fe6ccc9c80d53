// Bias and penalties of a row's logits. A count's highest bit says that the token is in the prompt.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        let at = tile.y * p.n + i;
        let penalty = penalties[tile.y];
        let seen = counts[at];
        let generated = seen & 0x7fffffffu;
        var logit = logits[at] + bias[at];
        if seen > 0u {
            logit = select(logit * penalty.x, logit / penalty.x, logit > 0.0);
        }
        if generated > 0u {
            logit -= penalty.y + penalty.z * f32(generated);
        }
        logits[at] = logit;
    }
}
