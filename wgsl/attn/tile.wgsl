// The queries of a workgroup: p.tile_rows rows of p.tile_heads query heads of one key head, at most eight queries. Query
// r * p.tile_heads + h is head h of row r. Consecutive rows at consecutive positions of a sequence are a run: they share
// a range of keys. With ONE_ROW a tile has one row, and compilers need not keep what a loop over runs needs.

struct AttnTile {
    kv_head: u32,
    // The first query head, among those of the key head.
    first_head: u32,
    // The rows, from rows.x up to rows.y.
    rows: vec2<u32>,
}

// The rows of a run, and the keys that any of them sees.
struct AttnRun {
    sequence: u32,
    rows: vec2<u32>,
    keys: vec2<u32>,
}

// What the workgroup keeps of its queries: query q is slot q / 2 of half q % 2, so that both halves have work however few
// queries there are. A half's four slots are a vector: the query's head of all heads, clamped to those that exist, and
// the keys that it sees, none unless its row belongs to the run.
var<workgroup> attn_head: array<vec4<u32>, 2>;
var<workgroup> attn_first: array<vec4<u32>, 2>;
var<workgroup> attn_end: array<vec4<u32>, 2>;

fn attn_tile(heads: u32, rows: u32) -> AttnTile {
    let kv_head = heads / p.head_tiles;
    let first_row = rows * p.tile_rows;
    return AttnTile(
        kv_head, (heads - kv_head * p.head_tiles) * p.tile_heads,
        vec2<u32>(first_row, select(min(first_row + p.tile_rows, p.rows), first_row + 1u, ONE_ROW)),
    );
}

// The run that begins at a row, within the first `limit` positions.
fn attn_run(tile: AttnTile, first_row: u32, limit: u32) -> AttnRun {
    let sequence = kv_sequence(first_row);
    let position = kv_position(first_row);
    var end_row = first_row + 1u;
    while !ONE_ROW && end_row < tile.rows.y && kv_sequence(end_row) == sequence && kv_position(end_row) - position == end_row - first_row {
        end_row += 1u;
    }
    let first = kv_visible(min(position + 1u, limit)).x;
    let end = min(position + end_row - first_row, limit);
    return AttnRun(sequence, vec2<u32>(first_row, end_row), vec2<u32>(first, end));
}

// Finds the queries of a run. Another invocation may read them after a barrier.
fn attn_find_queries(tile: AttnTile, run: AttnRun, limit: u32, invocation: u32) {
    if invocation < 2u {
        let query = vec4<u32>(0u, 2u, 4u, 6u) + invocation;
        let row_of_tile = vec4<u32>((vec4<f32>(query) + 0.5) / f32(p.tile_heads));
        let row = tile.rows.x + row_of_tile;
        let head = tile.first_head + query - row_of_tile * p.tile_heads;
        let in_run = (row >= vec4<u32>(run.rows.x)) & (row < vec4<u32>(run.rows.y)) & (head < vec4<u32>(p.q_per_kv));
        // Masks by arithmetic: GLSL ES has no componentwise select of integers.
        let mask = vec4<u32>(in_run);
        let context = min(kv_position(run.rows.x) + 1u + row - run.rows.x, vec4<u32>(limit));
        let first = context - min(context, vec4<u32>(p.window));
        let from_row = min(row, vec4<u32>(p.rows - 1u));
        let kv_heads = from_row * p.heads + tile.kv_head * p.q_per_kv;
        attn_head[invocation] = kv_heads + min(head, vec4<u32>(p.q_per_kv - 1u));
        attn_first[invocation] = select(first, vec4<u32>(0u), p.window == 0u) | (mask - 1u);
        attn_end[invocation] = context * mask;
    }
}
