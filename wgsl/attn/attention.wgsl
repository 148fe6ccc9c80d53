// Causal attention of some query heads of some tokens, a workgroup each, chunk by chunk; sums are in y until all is seen.
// What a chunk's values are put with: where, by what they and the sums before are multiplied, the mass so far.
struct Put {
    out: vec4<u32>,
    here: vec4<bool>,
    before: vec4<f32>,
    chunk: vec4<f32>,
    mass: vec4<f32>,
}

var<private> put_lo: Put;
var<private> put_hi: Put;
var<private> put_first: bool;
var<private> put_last: bool;

fn put_pick(lo: vec4<f32>, hi: vec4<f32>, pair: u32) -> f32 {
    let quad = select(lo, hi, pair >= 4u);
    let two = select(quad.xy, quad.zw, (pair & 2u) != 0u);
    return select(two.x, two.y, (pair & 1u) != 0u);
}

fn scan_put(pair: u32, i: u32, values: KvEight) {
    let outs = select(put_lo.out, put_hi.out, pair >= 4u);
    let heres = select(put_lo.here, put_hi.here, pair >= 4u);
    let two = select(outs.xy, outs.zw, (pair & 2u) != 0u);
    let two_here = select(heres.xy, heres.zw, (pair & 2u) != 0u);
    if !select(two_here.x, two_here.y, (pair & 1u) != 0u) {
        return;
    }
    let before = put_pick(put_lo.before, put_hi.before, pair);
    let chunk = put_pick(put_lo.chunk, put_hi.chunk, pair);
    let mass = put_pick(put_lo.mass, put_hi.mass, pair);
    let at = select(two.x, two.y, (pair & 1u) != 0u) * (HEAD_DIM / 4u) + 2u * i;
    put_four(at, before, values.a * chunk, mass);
    if 2u * i + 1u < HEAD_DIM / 4u {
        put_four(at + 1u, before, values.b * chunk, mass);
    }
}

fn put_four(at: u32, before: f32, values: vec4<f32>, mass: f32) {
    let sum = select(y[at], vec4<f32>(0.0), put_first) * before + values;
    y[at] = select(sum, sum / mass, put_last);
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let grid = grid_id(workgroup);
    let zero = grid_zero(workgroup);
    let tile = scan_tile(grid.x, grid.y);
    var left_lo = tile.lo.here;
    var left_hi = tile.hi.here;
    while any(left_lo) || any(left_hi) {
        let run = scan_run(tile, left_lo, left_hi, 0xffffffffu);
        left_lo &= !scan_ran(run.lo);
        left_hi &= !scan_ran(run.hi);
        var largest = ScanPairs(vec4<f32>(LOWEST), vec4<f32>(LOWEST));
        var mass = ScanPairs(vec4<f32>(0.0), vec4<f32>(0.0));
        let first = run.keys.x / CHUNK;
        for (var chunk = first; chunk * CHUNK < run.keys.y; chunk += 1u) {
            let keys = sums_chunk(run.keys, chunk);
            let part = scan_scores(tile, run, keys, zero, invocation);
            let part_mass = scan_weigh(run, keys, part, zero, invocation);
            let grown = ScanPairs(max(largest.lo, part.lo), max(largest.hi, part.hi));
            put_lo.before = sums_factor(largest.lo, grown.lo);
            put_hi.before = sums_factor(largest.hi, grown.hi);
            put_lo.chunk = sums_factor(part.lo, grown.lo);
            put_hi.chunk = sums_factor(part.hi, grown.hi);
            mass.lo = mass.lo * put_lo.before + part_mass.lo * put_lo.chunk;
            mass.hi = mass.hi * put_hi.before + part_mass.hi * put_hi.chunk;
            largest = grown;
            put_lo.out = tile.lo.out;
            put_hi.out = tile.hi.out;
            put_lo.here = scan_ran(run.lo);
            put_hi.here = scan_ran(run.hi);
            put_lo.mass = mass.lo;
            put_hi.mass = mass.hi;
            put_first = chunk == first;
            put_last = (chunk + 1u) * CHUNK >= run.keys.y;
            scan_values(keys, zero, invocation);
        }
    }
}
