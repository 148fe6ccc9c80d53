// A paged KV cache (PagedAttention, Kwon et al. 2023): a pool [blocks][2][kv_heads][block][head], keys first. A
// sequence's row of `table` names its blocks; a contiguous cache is one block of the whole capacity. A row's sequence
// follows its position.
fn kv_sequence(row: u32) -> u32 {
    return min(positions[2u * row + 1u], p.sequences - 1u);
}

// The head of the cache that holds a key.
fn kv_key(sequence: u32, kv_head: u32, position: u32) -> u32 {
    let entry = position / p.block;
    let block = min(table[sequence * p.max_blocks + min(entry, p.max_blocks - 1u)], p.blocks - 1u);
    return (block * 2u * p.kv_heads + kv_head) * p.block + position - entry * p.block;
}

// The distance from a key's head to its value's.
fn kv_value_offset() -> u32 {
    return p.kv_heads * p.block;
}
