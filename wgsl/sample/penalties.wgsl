// Adds bias and penalties to a row's logits, and applies its mask. The highest bit of a count says whether the prompt has the
// token. Flag 1: the sequence has penalties or a bias; flag 2: it has a mask.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    let sequence = pick_sequence(tile.y);
    let penalty = penalties[sequence];
    let flags = u32(penalty.w);
    if i < p.n && flags != 0u {
        let at = (p.first + tile.y) * p.n + i;
        var logit = logits[at];
        if (flags & 1u) != 0u {
            let seen = counts[sequence * p.n + i];
            let generated = seen & 0x7fffffffu;
            logit += bias[sequence * p.n + i];
            if seen > 0u {
                logit = select(logit * penalty.x, logit / penalty.x, logit > 0.0);
            }
            if generated > 0u {
                logit -= penalty.y + penalty.z * f32(generated);
            }
        }
        if (flags & 2u) != 0u {
            let word = masks[sequence * ((p.n + 31u) / 32u) + i / 32u];
            logit = select(-3.4e38, logit, ((word >> (i % 32u)) & 1u) != 0u);
        }
        logits[at] = logit;
    }
}
