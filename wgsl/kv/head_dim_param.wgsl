// The elements of a head: a parameter, so one variant serves all sizes.
fn head_dim() -> u32 {
    return p.head_dim;
}
