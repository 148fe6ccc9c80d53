// Which rows and query heads a workgroup has: p.tile_rows rows of p.tile_heads heads of one key head, eight pairs at most.
// Rows that share keys are a run: of one sequence, and as far apart as their positions.
struct ScanQuad {
    // Which head of the queries it is, of one that there is.
    out: vec4<u32>,
    here: vec4<bool>,
    sequence: vec4<u32>,
    // The same for all rows of a run.
    origin: vec4<u32>,
    position: vec4<u32>,
}

struct ScanTile {
    kv_head: u32,
    lo: ScanQuad,
    hi: ScanQuad,
}

// The keys that pairs see.
struct ScanSeen {
    first: vec4<u32>,
    end: vec4<u32>,
}

struct ScanRun {
    sequence: u32,
    // From the first that any sees to the end.
    keys: vec2<u32>,
    lo: ScanSeen,
    hi: ScanSeen,
}

fn scan_tile(heads: u32, rows: u32) -> ScanTile {
    let kv_head = heads / p.head_tiles;
    let first_head = (heads - kv_head * p.head_tiles) * p.tile_heads;
    return ScanTile(
        kv_head,
        scan_quad(kv_head, first_head, rows, vec4<u32>(0u, 1u, 2u, 3u)),
        scan_quad(kv_head, first_head, rows, vec4<u32>(4u, 5u, 6u, 7u)),
    );
}

fn scan_quad(kv_head: u32, first_head: u32, rows: u32, pairs: vec4<u32>) -> ScanQuad {
    let row_of_tile = vec4<u32>((vec4<f32>(pairs) + 0.5) / f32(p.tile_heads));
    let row = rows * p.tile_rows + row_of_tile;
    let head = first_head + pairs - row_of_tile * p.tile_heads;
    let here = (row_of_tile < vec4<u32>(p.tile_rows)) & (row < vec4<u32>(p.rows)) & (head < vec4<u32>(p.group));
    let from_row = min(row, vec4<u32>(p.rows - 1u));
    let position = vec4<u32>(
        kv_position(from_row.x), kv_position(from_row.y), kv_position(from_row.z), kv_position(from_row.w),
    );
    let sequence = vec4<u32>(
        kv_sequence(from_row.x), kv_sequence(from_row.y), kv_sequence(from_row.z), kv_sequence(from_row.w),
    );
    let out = from_row * p.heads + kv_head * p.group + min(head, vec4<u32>(p.group - 1u));
    return ScanQuad(out, here, sequence, position - from_row, position);
}

// The next run of the pairs that are left, and these without it.
fn scan_lead(quad: ScanQuad, left: vec4<bool>) -> vec2<u32> {
    var lead = vec2<u32>(quad.sequence.w, quad.origin.w);
    lead = select(lead, vec2<u32>(quad.sequence.z, quad.origin.z), left.z);
    lead = select(lead, vec2<u32>(quad.sequence.y, quad.origin.y), left.y);
    return select(lead, vec2<u32>(quad.sequence.x, quad.origin.x), left.x);
}

fn scan_with(quad: ScanQuad, left: vec4<bool>, lead: vec2<u32>) -> vec4<bool> {
    return left & (quad.sequence == vec4<u32>(lead.x)) & (quad.origin == vec4<u32>(lead.y));
}

fn scan_run(tile: ScanTile, left_lo: vec4<bool>, left_hi: vec4<bool>, most: u32) -> ScanRun {
    let lead = select(scan_lead(tile.hi, left_hi), scan_lead(tile.lo, left_lo), any(left_lo));
    let lo = scan_seen(tile.lo, scan_with(tile.lo, left_lo, lead), most);
    let hi = scan_seen(tile.hi, scan_with(tile.hi, left_hi, lead), most);
    let first = min(lo.first, hi.first);
    let end = max(lo.end, hi.end);
    let keys = vec2<u32>(min(min(first.x, first.y), min(first.z, first.w)), max(max(end.x, end.y), max(end.z, end.w)));
    return ScanRun(lead.x, keys, lo, hi);
}

// What the pairs of a run see of the first `most` positions; the others see nothing.
fn scan_seen(quad: ScanQuad, run: vec4<bool>, most: u32) -> ScanSeen {
    let context = min(quad.position + 1u, vec4<u32>(most));
    let first = select(context - min(context, vec4<u32>(p.window)), vec4<u32>(0u), p.window == 0u);
    // By arithmetic: GLSL ES has no selection of integers by component.
    let in_run = vec4<u32>(run);
    return ScanSeen(first | (in_run - 1u), context * in_run);
}

// The pairs of a run see something.
fn scan_ran(seen: ScanSeen) -> vec4<bool> {
    return seen.end > vec4<u32>(0u);
}
