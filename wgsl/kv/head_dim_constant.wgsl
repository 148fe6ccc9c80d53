// The elements of a head: a constant of the variant.
fn head_dim() -> u32 {
    return HEAD_DIM;
}
