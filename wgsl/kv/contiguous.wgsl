// The contiguous cache of one sequence: [2][kv_heads][capacity][HEAD_DIM], keys first.
fn kv_sequence(row: u32) -> u32 {
    return 0u;
}

fn kv_key(sequence: u32, kv_head: u32, position: u32) -> u32 {
    return kv_head * p.capacity + position;
}

fn kv_values() -> u32 {
    return p.kv_heads * p.capacity;
}
