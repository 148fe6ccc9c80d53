// Returns the input row. It is clamped, because it comes from data.
fn pick_row(row: u32) -> u32 {
    return min(picks[row].x, p.x_rows - 1u);
}
