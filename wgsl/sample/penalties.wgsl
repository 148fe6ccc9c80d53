// Adds bias and penalties to a row's logits. The highest bit of a count says whether the prompt has the token.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    let sequence = pick_sequence(tile.y);
    let penalty = penalties[sequence];
    if i < p.n && penalty.w != 0.0 {
        let at = (p.first + tile.y) * p.n + i;
        let seen = counts[sequence * p.n + i];
        let generated = seen & 0x7fffffffu;
        var logit = logits[at] + bias[sequence * p.n + i];
        if seen > 0u {
            logit = select(logit * penalty.x, logit / penalty.x, logit > 0.0);
        }
        if generated > 0u {
            logit -= penalty.y + penalty.z * f32(generated);
        }
        logits[at] = logit;
    }
}
