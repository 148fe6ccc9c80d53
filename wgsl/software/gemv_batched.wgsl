// linear/gemv_batched with the split by rows: a workgroup of 8 multiplies 32 weight rows, 4 a lane, by a batch of at most
// TILE_M = 8 rows of activations. Each sum has the order of software/gemv. BLOCKS = 1 or 2 blocks of weights at a time are decoded
// once for the batch, and a block of activations is loaded once for four weight rows.
//
// The loop over the batch is opaque: unrolled, the driver takes three times as long to compile it, and the kernel is no faster.
// So the sums are indexed, which this driver does element by element: a second block halves the cost.

// sums[i * WG + lane]: of row `i` of the batch with four weight rows of `lane`, which alone reads and writes it.
var<workgroup> sums: array<vec4<f32>, TILE_M * WG>;

// Blocks for which headers are decoded at once.
const HEADER_BLOCKS = max(SUPER_BLOCK, BLOCKS);

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let first_row = tile_first(tile.y);
    let end = min(tile_end(tile.y), first_row + TILE_M);
    if first_row >= end {
        return;
    }
    let batch = end - first_row;
    let zero = opaque_zero(workgroup);
    let row = (tile.x * WG + invocation) * 4u;
    let first_blocks = row_split_blocks(tile_first_weight(tile.y), row);
    for (var i = zero; i < batch; i += 1u) {
        sums[i * WG + invocation] = vec4<f32>(0.0);
    }
    for (var block = zero; block < p.k_blocks; block += HEADER_BLOCKS) {
        let blocks = first_blocks + block;
        let headers = row_split_headers(blocks);
        for (var l = 0u; l < HEADER_BLOCKS; l += BLOCKS) {
            // The second block: `l` again behind the end of an odd number of blocks.
            let m = min(l + 1u, p.k_blocks - 1u - block);
            let a = q_sub_block(headers[0], blocks.x, l, p.n_blocks);
            let b = q_sub_block(headers[1], blocks.y, l, p.n_blocks);
            let c = q_sub_block(headers[2], blocks.z, l, p.n_blocks);
            let d = q_sub_block(headers[3], blocks.w, l, p.n_blocks);
            let a2 = q_sub_block(headers[0], blocks.x, m, p.n_blocks);
            let b2 = q_sub_block(headers[1], blocks.y, m, p.n_blocks);
            let c2 = q_sub_block(headers[2], blocks.z, m, p.n_blocks);
            let d2 = q_sub_block(headers[3], blocks.w, m, p.n_blocks);
            for (var i = zero; i < batch; i += 1u) {
                let input_row = (p.x_offset >> 2u) + tile_input(first_row + i) * (p.k >> 2u);
                var sum = sums[i * WG + invocation];
                sum += row_split_products(a, b, c, d, in_block32(input_row, block + l));
                if BLOCKS > 1u && m > l {
                    sum += row_split_products(a2, b2, c2, d2, in_block32(input_row, block + m));
                }
                sums[i * WG + invocation] = sum;
            }
        }
    }
    for (var i = zero; i < batch; i += 1u) {
        store_output4(tile_output(first_row + i) * p.y_stride + p.y_offset, row, sums[i * WG + invocation]);
    }
}
