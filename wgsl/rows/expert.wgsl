// A matrix for each expert: row i of the output is a (token, expert) pair, the expert being ids[i]. `share` pairs in a
// row have the same input row. The binding holds the `held` experts from `first_expert` on.
fn row_expert(i: u32) -> u32 {
    return min(ids[p.ids_offset + i], p.experts - 1u) - p.first_expert;
}

fn row_is_here(i: u32) -> bool {
    // An expert before the first is a huge number.
    return row_expert(i) < p.held;
}

fn row_input(i: u32) -> u32 {
    return i / p.share;
}

fn row_first_weight(i: u32) -> u32 {
    return row_expert(i) * p.matrix_rows;
}
