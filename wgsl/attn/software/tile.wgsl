// The queries of a workgroup: p.tile_rows rows of p.tile_heads query heads of one key head, at most eight queries. Rows
// whose sequences and offsets from their positions agree share a range of keys.

// Four queries of a tile.
struct QueryQuad {
    // The query's head of all heads, clamped to those that exist.
    head: vec4<u32>,
    valid: vec4<bool>,
    sequence: vec4<u32>,
    // Position − row: equal for all rows that share a range.
    offset: vec4<u32>,
    position: vec4<u32>,
}

struct AttnTile {
    kv_head: u32,
    lo: QueryQuad,
    hi: QueryQuad,
}

// The keys that four queries see.
struct VisibleKeys {
    first: vec4<u32>,
    end: vec4<u32>,
}

// A range of keys of one sequence, and what the queries that share it see of them.
struct KvRange {
    sequence: u32,
    // The first key that any query sees, and the end.
    keys: vec2<u32>,
    lo: VisibleKeys,
    hi: VisibleKeys,
}

fn attn_tile(heads: u32, rows: u32) -> AttnTile {
    let kv_head = heads / p.head_tiles;
    let first_head = (heads - kv_head * p.head_tiles) * p.tile_heads;
    // An opaque loop: a software driver compiles the loads once. There are fewer than 2³¹ rows.
    var query_positions: array<u32, 8>;
    var query_sequences: array<u32, 8>;
    for (var query = rows >> 31u; query < 8u; query += 1u) {
        let row = min(rows * p.tile_rows + u32((f32(query) + 0.5) / f32(p.tile_heads)), p.rows - 1u);
        query_positions[query] = kv_position(row);
        query_sequences[query] = kv_sequence(row);
    }
    let lo = vec4<u32>(0u, 1u, 2u, 3u);
    let tile = AttnTile(
        kv_head,
        attn_query_quad(
            kv_head, first_head, rows, lo,
            vec4<u32>(query_positions[0], query_positions[1], query_positions[2], query_positions[3]),
            vec4<u32>(query_sequences[0], query_sequences[1], query_sequences[2], query_sequences[3]),
        ),
        attn_query_quad(
            kv_head, first_head, rows, lo + 4u,
            vec4<u32>(query_positions[4], query_positions[5], query_positions[6], query_positions[7]),
            vec4<u32>(query_sequences[4], query_sequences[5], query_sequences[6], query_sequences[7]),
        ),
    );
    // Nothing is shared yet. But llvmpipe compiles a kernel with a barrier as a coroutine, which takes half the time.
    workgroupBarrier();
    return tile;
}

fn attn_query_quad(
    kv_head: u32, first_head: u32, rows: u32, queries: vec4<u32>, position: vec4<u32>, sequence: vec4<u32>,
) -> QueryQuad {
    let row_of_tile = vec4<u32>((vec4<f32>(queries) + 0.5) / f32(p.tile_heads));
    let row = rows * p.tile_rows + row_of_tile;
    let head = first_head + queries - row_of_tile * p.tile_heads;
    let valid = (row_of_tile < vec4<u32>(p.tile_rows)) & (row < vec4<u32>(p.rows)) & (head < vec4<u32>(p.q_per_kv));
    let from_row = min(row, vec4<u32>(p.rows - 1u));
    let head_of_all = from_row * p.heads + kv_head * p.q_per_kv + min(head, vec4<u32>(p.q_per_kv - 1u));
    return QueryQuad(head_of_all, valid, sequence, position - from_row, position);
}

// Sequence and offset of the first query that is left.
fn attn_lead(quad: QueryQuad, left: vec4<bool>) -> vec2<u32> {
    var lead = vec2<u32>(quad.sequence.w, quad.offset.w);
    lead = select(lead, vec2<u32>(quad.sequence.z, quad.offset.z), left.z);
    lead = select(lead, vec2<u32>(quad.sequence.y, quad.offset.y), left.y);
    return select(lead, vec2<u32>(quad.sequence.x, quad.offset.x), left.x);
}

fn attn_shares_range(quad: QueryQuad, left: vec4<bool>, lead: vec2<u32>) -> vec4<bool> {
    return left & (quad.sequence == vec4<u32>(lead.x)) & (quad.offset == vec4<u32>(lead.y));
}

// The range of the first query that is left, within the first `limit` positions.
fn attn_kv_range(tile: AttnTile, left_lo: vec4<bool>, left_hi: vec4<bool>, limit: u32) -> KvRange {
    let lead = select(attn_lead(tile.hi, left_hi), attn_lead(tile.lo, left_lo), any(left_lo));
    let lo = attn_visible_keys(tile.lo, attn_shares_range(tile.lo, left_lo, lead), limit);
    let hi = attn_visible_keys(tile.hi, attn_shares_range(tile.hi, left_hi, lead), limit);
    let first = min(lo.first, hi.first);
    let end = max(lo.end, hi.end);
    let keys = vec2<u32>(min(min(first.x, first.y), min(first.z, first.w)), max(max(end.x, end.y), max(end.z, end.w)));
    return KvRange(lead.x, keys, lo, hi);
}

// The keys that `queries` see among the first `limit` positions; other queries see none.
fn attn_visible_keys(quad: QueryQuad, queries: vec4<bool>, limit: u32) -> VisibleKeys {
    let context = min(quad.position + 1u, vec4<u32>(limit));
    let first = select(context - min(context, vec4<u32>(p.window)), vec4<u32>(0u), p.window == 0u);
    // By arithmetic: GLSL ES has no componentwise select of integers.
    let mask = vec4<u32>(queries);
    return VisibleKeys(first | (mask - 1u), context * mask);
}

// Which queries belong to a range.
fn attn_active_mask(visible: VisibleKeys) -> vec4<bool> {
    return visible.end > vec4<u32>(0u);
}
