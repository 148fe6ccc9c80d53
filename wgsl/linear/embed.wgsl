// Embedding lookup: y[t] = p.scale times the table's row of token t's id, if the binding holds that row. An invocation decodes a block.
fn write_vec4(row: u32, k: u32, value: vec4<f32>) {
    // k and p.k are multiples of 4: a vec4 is inside the row or outside.
    if k < p.k {
        let at = row + k;
        y[at] = p.scale * value.x;
        y[at + 1u] = p.scale * value.y;
        y[at + 2u] = p.scale * value.z;
        y[at + 3u] = p.scale * value.w;
    }
}

// Returns the token id of a row: its own, or the token that was sampled last for its sequence.
fn embed_id(row: u32) -> u32 {
    let sequence = min(positions[2u * row + 1u], p.sequences - 1u);
    return ids[select(row, sequence, p.sequences > 0u)];
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let block = tile.x * WG + invocation;
    if block >= p.k_blocks {
        return;
    }
    // The binding holds `local_rows` rows from `first_row` on. A row before them wraps around to a huge number.
    let local_row = min(embed_id(tile.y), p.n - 1u) - p.first_row;
    if local_row >= p.local_rows {
        return;
    }
    let u = q_block32(local_row * p.k_blocks + block, p.n_blocks);
    let halves = q_halves(block);
    let row = tile.y * p.k;
    write_vec4(row, halves.x, u.q[0] * u.scale.x + vec4<f32>(u.offset.x));
    write_vec4(row, halves.x + 4u, u.q[1] * u.scale.x + vec4<f32>(u.offset.x));
    write_vec4(row, halves.x + 8u, u.q[2] * u.scale.x + vec4<f32>(u.offset.x));
    write_vec4(row, halves.x + 12u, u.q[3] * u.scale.x + vec4<f32>(u.offset.x));
    write_vec4(row, halves.y, u.q[4] * u.scale.y + vec4<f32>(u.offset.y));
    write_vec4(row, halves.y + 4u, u.q[5] * u.scale.y + vec4<f32>(u.offset.y));
    write_vec4(row, halves.y + 8u, u.q[6] * u.scale.y + vec4<f32>(u.offset.y));
    write_vec4(row, halves.y + 12u, u.q[7] * u.scale.y + vec4<f32>(u.offset.y));
}
