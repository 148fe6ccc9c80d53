// y[t] = the row of the table that is t's id, where that row is bound: an invocation decodes a unit.
fn write_vec4(row: u32, k: u32, value: vec4<f32>) {
    // k and p.k are multiples of 4: a vec4 is inside the row or outside.
    if k < p.k {
        let at = row + k;
        y[at] = value.x;
        y[at + 1u] = value.y;
        y[at + 2u] = value.z;
        y[at + 3u] = value.w;
    }
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let unit = tile.x * WG + invocation;
    if unit >= p.row_units {
        return;
    }
    // The binding holds `held` rows from `first_row` on; an id before them becomes a huge number.
    let held = min(embed_id(tile.y), p.n - 1u) - p.first_row;
    if held >= p.held {
        return;
    }
    let u = q_unit(held * p.row_units + unit, p.units);
    let runs = q_runs(unit);
    let row = tile.y * p.k;
    write_vec4(row, runs.x, u.q[0] * u.scale.x + vec4<f32>(u.offset.x));
    write_vec4(row, runs.x + 4u, u.q[1] * u.scale.x + vec4<f32>(u.offset.x));
    write_vec4(row, runs.x + 8u, u.q[2] * u.scale.x + vec4<f32>(u.offset.x));
    write_vec4(row, runs.x + 12u, u.q[3] * u.scale.x + vec4<f32>(u.offset.x));
    write_vec4(row, runs.y, u.q[4] * u.scale.y + vec4<f32>(u.offset.y));
    write_vec4(row, runs.y + 4u, u.q[5] * u.scale.y + vec4<f32>(u.offset.y));
    write_vec4(row, runs.y + 8u, u.q[6] * u.scale.y + vec4<f32>(u.offset.y));
    write_vec4(row, runs.y + 12u, u.q[7] * u.scale.y + vec4<f32>(u.offset.y));
}
