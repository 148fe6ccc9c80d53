// The sequence of a dispatch's row, which a host may have got wrong.
fn pick_sequence(row: u32) -> u32 {
    return min(picks[p.first + row].y, p.sequences - 1u);
}
