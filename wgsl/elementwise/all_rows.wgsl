fn pick_row(row: u32) -> u32 {
    return row;
}
