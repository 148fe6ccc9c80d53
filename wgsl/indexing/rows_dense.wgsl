// One weight matrix: row i of the output is W times row i of the input.
fn row_is_local(i: u32) -> bool {
    return true;
}

fn row_input(i: u32) -> u32 {
    return i;
}

fn row_first_weight(i: u32) -> u32 {
    return 0u;
}
