// A row whose first candidate is a NaN has no token.
fn keep(tile: vec2<u32>, candidate: vec2<u32>) {
    let sequence = pick_sequence(tile.y);
    let id = select(candidate.y, 0xffffffffu, candidate.x == 0u);
    ids[sequence] = id;
    count_token(sequence, id);
}
