// Returns the sequence of a dispatch's row. It is clamped, because it comes from data.
fn pick_sequence(row: u32) -> u32 {
    return min(picks[p.first + row].y, p.sequences - 1u);
}
