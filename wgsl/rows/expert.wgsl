// A matrix for each expert: row i of the output is a (token, expert) pair, the expert being ids[i]. `share` pairs in a
// row have the same input row.
fn row_input(i: u32) -> u32 {
    return i / p.share;
}

fn row_first_weight(i: u32) -> u32 {
    return min(ids[i], p.experts - 1u) * p.n;
}
