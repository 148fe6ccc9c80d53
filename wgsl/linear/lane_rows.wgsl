// Four weight rows in a lane.

// The first unit of each from row `row` on, of the matrix whose first row is `first`; those beyond its end are its last.
fn lane_rows(first: u32, row: u32) -> vec4<u32> {
    let rows = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.matrix_rows - 1u));
    return (vec4<u32>(first) + rows) * p.row_units;
}

fn lane_heads(firsts: vec4<u32>) -> array<QHead, 4> {
    return array<QHead, 4>(
        q_head(firsts.x, p.units), q_head(firsts.y, p.units), q_head(firsts.z, p.units), q_head(firsts.w, p.units),
    );
}
