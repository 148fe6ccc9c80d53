// Weight rows in a lane, four side by side.

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

// Four activations times those of four weight rows.
fn lane_dots(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(dot(a, x), dot(b, x), dot(c, x), dot(d, x));
}

// q_product of four weight rows, side by side, so that an activation serves all while it is in a register.
fn lane_products(a: QUnit, b: QUnit, c: QUnit, d: QUnit, input: QInput) -> vec4<f32> {
    let lo = lane_dots(a.q[0], b.q[0], c.q[0], d.q[0], input.x[0]) + lane_dots(a.q[1], b.q[1], c.q[1], d.q[1], input.x[1])
        + (lane_dots(a.q[2], b.q[2], c.q[2], d.q[2], input.x[2]) + lane_dots(a.q[3], b.q[3], c.q[3], d.q[3], input.x[3]));
    let hi = lane_dots(a.q[4], b.q[4], c.q[4], d.q[4], input.x[4]) + lane_dots(a.q[5], b.q[5], c.q[5], d.q[5], input.x[5])
        + (lane_dots(a.q[6], b.q[6], c.q[6], d.q[6], input.x[6]) + lane_dots(a.q[7], b.q[7], c.q[7], d.q[7], input.x[7]));
    return vec4<f32>(
        dot(vec2<f32>(lo.x, hi.x), a.scale) + dot(input.sum, a.offset),
        dot(vec2<f32>(lo.y, hi.y), b.scale) + dot(input.sum, b.offset),
        dot(vec2<f32>(lo.z, hi.z), c.scale) + dot(input.sum, c.offset),
        dot(vec2<f32>(lo.w, hi.w), d.scale) + dot(input.sum, d.offset),
    );
}

// The products of unit `l` of four rows' blocks.
fn lane_unit(heads: array<QHead, 4>, firsts: vec4<u32>, l: u32, input: QInput) -> vec4<f32> {
    return lane_products(
        q_unit_of(heads[0], firsts.x, l, p.units), q_unit_of(heads[1], firsts.y, l, p.units),
        q_unit_of(heads[2], firsts.z, l, p.units), q_unit_of(heads[3], firsts.w, l, p.units), input,
    );
}

struct LaneSums {
    front: vec4<f32>,
    back: vec4<f32>,
}

// The sums of LANE_ROWS weight rows from row `row` on, unit after unit along k; `zero` is a zero that compilers don't know.
// What a block's units share is decoded once, and a unit's activations are loaded once for all rows.
fn lane_sums(first: u32, row: u32, input_row: u32, zero: u32) -> LaneSums {
    let front_units = lane_rows(first, row);
    let back_units = lane_rows(first, row + 4u);
    var sums = LaneSums(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var block = zero; block < p.row_units; block += BLOCK_UNITS) {
        let front = front_units + block;
        let back = back_units + block;
        let front_heads = lane_heads(front);
        let back_heads = lane_heads(back);
        for (var l = 0u; l < BLOCK_UNITS; l += 1u) {
            let input = in_unit(input_row, block + l);
            sums.front += lane_unit(front_heads, front, l, input);
            if LANE_ROWS > 4u {
                sums.back += lane_unit(back_heads, back, l, input);
            }
        }
    }
    return sums;
}

fn lane_put(out_row: u32, row: u32, sums: LaneSums) {
    put_four(out_row, row, sums.front);
    if LANE_ROWS > 4u {
        put_four(out_row, row + 4u, sums.back);
    }
}
