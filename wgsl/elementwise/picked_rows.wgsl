// The input of a row, which a host may have got wrong.
fn pick_row(row: u32) -> u32 {
    return min(picks[row].x, p.x_rows - 1u);
}
