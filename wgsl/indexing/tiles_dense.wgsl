// One weight matrix: a tile is TILE_M consecutive rows.
fn tile_first(tile: u32) -> u32 {
    return tile * TILE_M;
}

fn tile_end(tile: u32) -> u32 {
    return p.rows;
}

fn tile_first_weight(tile: u32) -> u32 {
    return 0u;
}

fn tile_input(row: u32) -> u32 {
    return row;
}

fn tile_output(row: u32) -> u32 {
    return row;
}
