// A pool of blocks, [blocks][2][kv_heads][block][HEAD_DIM], keys first, of which each sequence has those that its row
// of table names. A row's sequence is behind its position.
fn kv_sequence(row: u32) -> u32 {
    return min(positions[2u * row + 1u], p.sequences - 1u);
}

fn kv_key(sequence: u32, kv_head: u32, position: u32) -> u32 {
    let entry = position / p.block;
    let block = min(table[sequence * p.max_blocks + min(entry, p.max_blocks - 1u)], p.blocks - 1u);
    return (block * 2u * p.kv_heads + kv_head) * p.block + position - entry * p.block;
}

fn kv_values() -> u32 {
    return p.kv_heads * p.block;
}
