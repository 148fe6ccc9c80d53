// Attention of a tile to all keys that it sees, chunk by chunk; sums are in y until all is seen.
// What a chunk's values are put with: where, by what they and the sums before are multiplied, the mass so far.
struct WholePut {
    out: vec4<u32>,
    here: vec4<bool>,
    before: vec4<f32>,
    chunk: vec4<f32>,
    mass: vec4<f32>,
}

var<private> whole_lo: WholePut;
var<private> whole_hi: WholePut;
var<private> whole_first: bool;
var<private> whole_last: bool;

fn whole_pick(lo: vec4<f32>, hi: vec4<f32>, pair: u32) -> f32 {
    let quad = select(lo, hi, pair >= 4u);
    let two = select(quad.xy, quad.zw, (pair & 2u) != 0u);
    return select(two.x, two.y, (pair & 1u) != 0u);
}

fn scan_put(pair: u32, i: u32, values: KvEight) {
    let outs = select(whole_lo.out, whole_hi.out, pair >= 4u);
    let heres = select(whole_lo.here, whole_hi.here, pair >= 4u);
    let two = select(outs.xy, outs.zw, (pair & 2u) != 0u);
    let two_here = select(heres.xy, heres.zw, (pair & 2u) != 0u);
    if !select(two_here.x, two_here.y, (pair & 1u) != 0u) {
        return;
    }
    let before = whole_pick(whole_lo.before, whole_hi.before, pair);
    let chunk = whole_pick(whole_lo.chunk, whole_hi.chunk, pair);
    let mass = whole_pick(whole_lo.mass, whole_hi.mass, pair);
    let at = select(two.x, two.y, (pair & 1u) != 0u) * (HEAD_DIM / 4u) + 2u * i;
    whole_four(at, before, values.a * chunk, mass);
    if 2u * i + 1u < HEAD_DIM / 4u {
        whole_four(at + 1u, before, values.b * chunk, mass);
    }
}

fn whole_four(at: u32, before: f32, values: vec4<f32>, mass: f32) {
    let sum = select(y[at], vec4<f32>(0.0), whole_first) * before + values;
    y[at] = select(sum, sum / mass, whole_last);
}

fn whole_attend(tile: ScanTile, zero: u32, invocation: u32) {
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
            whole_lo.before = sums_factor(largest.lo, grown.lo);
            whole_hi.before = sums_factor(largest.hi, grown.hi);
            whole_lo.chunk = sums_factor(part.lo, grown.lo);
            whole_hi.chunk = sums_factor(part.hi, grown.hi);
            mass.lo = mass.lo * whole_lo.before + part_mass.lo * whole_lo.chunk;
            mass.hi = mass.hi * whole_hi.before + part_mass.hi * whole_hi.chunk;
            largest = grown;
            whole_lo.out = tile.lo.out;
            whole_hi.out = tile.hi.out;
            whole_lo.here = scan_ran(run.lo);
            whole_hi.here = scan_ran(run.hi);
            whole_lo.mass = mass.lo;
            whole_hi.mass = mass.hi;
            whole_first = chunk == first;
            whole_last = (chunk + 1u) * CHUNK >= run.keys.y;
            scan_values(keys, zero, invocation);
        }
    }
}
