// Tiles of the experts' buckets: up to TILE_M (token, expert) pairs of one expert, from the list that moe/bucket makes.
// `share` pairs in a row have the same input row. The binding holds the `held` experts from `first_expert` on; tiles of
// others, and those beyond the list, are empty.
fn tile_expert(tile: u32) -> u32 {
    return min(tiles[tile].x, p.experts - 1u) - p.first_expert;
}

fn tile_first(tile: u32) -> u32 {
    return tiles[tile].y;
}

fn tile_end(tile: u32) -> u32 {
    // An expert before the first is a huge number; a tile beyond the list has no end.
    return select(0u, min(tiles[tile].z, p.rows), tile_expert(tile) < p.held);
}

fn tile_first_weight(tile: u32) -> u32 {
    return min(tile_expert(tile), p.held - 1u) * p.matrix_rows;
}

fn tile_input(row: u32) -> u32 {
    return min(pairs[row], p.rows - 1u) / p.share;
}

fn tile_output(row: u32) -> u32 {
    return min(pairs[row], p.rows - 1u);
}
