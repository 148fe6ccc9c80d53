// One weight matrix per expert: a tile is up to TILE_M assignments of one expert, from the list of tiles of moe/sort.
// `rows_per_input` consecutive assignments share an input row. The binding holds `local_experts` experts from `first_expert`
// on; tiles of other experts and tiles beyond the list are empty.
fn tile_expert(tile: u32) -> u32 {
    return min(tiles[tile].x, p.experts - 1u) - p.first_expert;
}

fn tile_first(tile: u32) -> u32 {
    return tiles[tile].y;
}

fn tile_end(tile: u32) -> u32 {
    // An expert before the first one wraps around to a huge number. A tile beyond the list ends at 0.
    return select(0u, min(tiles[tile].z, p.rows), tile_expert(tile) < p.local_experts);
}

fn tile_first_weight(tile: u32) -> u32 {
    return min(tile_expert(tile), p.local_experts - 1u) * p.weight_rows;
}

fn tile_input(row: u32) -> u32 {
    return min(assignments[row], p.rows - 1u) / p.rows_per_input;
}

fn tile_output(row: u32) -> u32 {
    return min(assignments[row], p.rows - 1u);
}
