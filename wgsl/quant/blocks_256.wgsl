// Formats in blocks of 8 units, whose scales are in the block's head: read once where a block's units are taken in turn.
fn q_unit(unit: u32, units: u32) -> QUnit {
    let first = unit & ~7u;
    return q_unit_of(q_head(first, units), first, unit & 7u, units);
}
