// Split by rows: each lane multiplies whole weight rows, four side by side. Activations are shared by shuffles, and the
// header of a super-block is decoded once. It suits drivers that run on the CPU, where a load costs more than arithmetic.

// Returns the first block of each of four weight rows from row `row` on, of the matrix whose first row is `first`. Rows
// beyond the matrix repeat its last row.
fn row_split_blocks(first: u32, row: u32) -> vec4<u32> {
    let rows = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.weight_rows - 1u));
    return (vec4<u32>(first) + rows) * p.k_blocks;
}

fn row_split_headers(firsts: vec4<u32>) -> array<QHeader, 4> {
    return array<QHeader, 4>(
        q_header(firsts.x, p.n_blocks), q_header(firsts.y, p.n_blocks),
        q_header(firsts.z, p.n_blocks), q_header(firsts.w, p.n_blocks),
    );
}

// Returns the dot products of four weights of each of four rows with four activations.
fn dot4(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(dot(a, x), dot(b, x), dot(c, x), dot(d, x));
}

// Returns `q_product` of four weight rows. They are computed side by side, so that a loaded activation serves all four.
fn row_split_products(a: QBlock32, b: QBlock32, c: QBlock32, d: QBlock32, input: QInput) -> vec4<f32> {
    let lo = dot4(a.q[0], b.q[0], c.q[0], d.q[0], input.x[0]) + dot4(a.q[1], b.q[1], c.q[1], d.q[1], input.x[1])
        + (dot4(a.q[2], b.q[2], c.q[2], d.q[2], input.x[2]) + dot4(a.q[3], b.q[3], c.q[3], d.q[3], input.x[3]));
    let hi = dot4(a.q[4], b.q[4], c.q[4], d.q[4], input.x[4]) + dot4(a.q[5], b.q[5], c.q[5], d.q[5], input.x[5])
        + (dot4(a.q[6], b.q[6], c.q[6], d.q[6], input.x[6]) + dot4(a.q[7], b.q[7], c.q[7], d.q[7], input.x[7]));
    return vec4<f32>(
        dot(vec2<f32>(lo.x, hi.x), a.scale) + dot(input.sum, a.offset),
        dot(vec2<f32>(lo.y, hi.y), b.scale) + dot(input.sum, b.offset),
        dot(vec2<f32>(lo.z, hi.z), c.scale) + dot(input.sum, c.offset),
        dot(vec2<f32>(lo.w, hi.w), d.scale) + dot(input.sum, d.offset),
    );
}

// Returns the products of sub-block `l` of the super-blocks of four rows.
fn row_split_sub_block(headers: array<QHeader, 4>, firsts: vec4<u32>, l: u32, input: QInput) -> vec4<f32> {
    return row_split_products(
        q_sub_block(headers[0], firsts.x, l, p.n_blocks), q_sub_block(headers[1], firsts.y, l, p.n_blocks),
        q_sub_block(headers[2], firsts.z, l, p.n_blocks), q_sub_block(headers[3], firsts.w, l, p.n_blocks), input,
    );
}

struct RowSums {
    front: vec4<f32>,
    back: vec4<f32>,
}

// Returns the sums of ROWS_PER_LANE weight rows from row `row` on, block after block along K. `zero` is `opaque_zero`. The
// header of a super-block is decoded once, and the activations of a block are loaded once for all rows.
fn row_split_sums(first: u32, row: u32, input_row: u32, zero: u32) -> RowSums {
    let front_blocks = row_split_blocks(first, row);
    let back_blocks = row_split_blocks(first, row + 4u);
    var sums = RowSums(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var block = zero; block < p.k_blocks; block += SUPER_BLOCK) {
        let front = front_blocks + block;
        let back = back_blocks + block;
        let front_headers = row_split_headers(front);
        let back_headers = row_split_headers(back);
        for (var l = 0u; l < SUPER_BLOCK; l += 1u) {
            let input = in_block32(input_row, block + l);
            sums.front += row_split_sub_block(front_headers, front, l, input);
            if ROWS_PER_LANE > 4u {
                sums.back += row_split_sub_block(back_headers, back, l, input);
            }
        }
    }
    return sums;
}
