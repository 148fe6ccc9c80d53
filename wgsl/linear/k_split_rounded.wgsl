// Rounds the product of a block before it is added to a lane's sum: a compiler may otherwise fuse its last multiplication with the
// addition, in one kernel of an order and not in another. The shift is zero, which the compiler cannot prove.
fn k_split_rounded(product: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(product) ^ (p.k_blocks >> 31u));
}
