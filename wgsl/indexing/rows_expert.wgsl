// One weight matrix per expert: row i of the output is an assignment of a token to expert ids[i]. `rows_per_input`
// consecutive rows share an input row. The binding holds `local_experts` experts from `first_expert` on.
fn row_expert(i: u32) -> u32 {
    return min(ids[p.ids_offset + i], p.experts - 1u) - p.first_expert;
}

fn row_is_local(i: u32) -> bool {
    // An expert before the first one wraps around to a huge number.
    return row_expert(i) < p.local_experts;
}

fn row_input(i: u32) -> u32 {
    return i / p.rows_per_input;
}

fn row_first_weight(i: u32) -> u32 {
    return row_expert(i) * p.weight_rows;
}
