// The end of a K-split product: reduces the lanes' partial sums and stores the outputs.

// Reduces and stores output `i < TILE_N` of tile `tile` for activation row `column` of the batch.
fn reduce_and_store(tile: u32, i: u32, column: u32, out_row: u32) {
    if is_gated() {
        if i < TILE_N / 2u {
            let gate = reduce_partials(2u * i, column);
            store_output(out_row, tile * (TILE_N / 2u) + i, gated(gate, reduce_partials(2u * i + 1u, column)));
        }
        return;
    }
    store_output(out_row, tile * TILE_N + i, reduce_partials(i, column));
}
