// Counts a sampled token, if it exists and the sequence is penalised.
fn count_token(sequence: u32, id: u32) {
    if id < p.vocab && penalties[sequence].w != 0.0 {
        counts[sequence * p.vocab + id] += 1u;
    }
}
