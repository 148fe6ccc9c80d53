// Causal attention of one query head at one token to one chunk of its keys, a workgroup each. Chunks begin at multiples
// of CHUNK, so that a row's sums are the same in every batch.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let row = tile.y;
    let chunk = tile.x / p.heads;
    let head = tile.x - chunk * p.heads;
    let all = kv_seen(min(kv_position(row) + 1u, p.chunks * CHUNK));
    let seen = sums_chunk(all, chunk);
    if seen.x >= seen.y {
        return;
    }
    let scan = scan_keys(row, head, seen, invocation);
    let part = ((row * p.heads + head) * p.chunks + chunk) * (HEAD_DIM + 2u);
    if invocation < PAIRS {
        parts[part + 2u * invocation] = scan.values.x;
        parts[part + 2u * invocation + 1u] = scan.values.y;
    }
    if invocation == 0u {
        parts[part + HEAD_DIM] = scan.largest;
        parts[part + HEAD_DIM + 1u] = scan.mass;
    }
}
