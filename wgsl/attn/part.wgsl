// Attention of a tile to one chunk of its keys.
// Where the pairs' parts are; NOWHERE for those that see nothing of the chunk.
const NOWHERE = 0xffffffffu;
var<private> part_lo: vec4<u32>;
var<private> part_hi: vec4<u32>;

fn scan_put(pair: u32, i: u32, values: KvEight) {
    let quad = select(part_lo, part_hi, pair >= 4u);
    let two = select(quad.xy, quad.zw, (pair & 2u) != 0u);
    let part = select(two.x, two.y, (pair & 1u) != 0u);
    if part != NOWHERE {
        parts[part + 2u * i] = values.a;
        if 2u * i + 1u < HEAD_DIM / 4u {
            parts[part + 2u * i + 1u] = values.b;
        }
    }
}

fn part_of(quad: ScanQuad, seen: ScanSeen, keys: vec2<u32>, chunk: u32) -> vec4<u32> {
    let sees = max(seen.first, vec4<u32>(keys.x)) < min(seen.end, vec4<u32>(keys.y));
    // NOWHERE by arithmetic: GLSL ES has no selection of integers by component.
    return ((quad.out * p.chunks + chunk) * PART) | (vec4<u32>(sees) - 1u);
}

fn part_put_sums(parts_of: vec4<u32>, largest: vec4<f32>, mass: vec4<f32>) {
    part_put(parts_of.x, largest.x, mass.x);
    part_put(parts_of.y, largest.y, mass.y);
    part_put(parts_of.z, largest.z, mass.z);
    part_put(parts_of.w, largest.w, mass.w);
}

fn part_put(part: u32, largest: f32, mass: f32) {
    if part != NOWHERE {
        parts[part + HEAD_DIM / 4u] = vec4<f32>(largest, mass, 0.0, 0.0);
    }
}

fn part_attend(tile: ScanTile, chunk: u32, zero: u32, invocation: u32) {
    var left_lo = tile.lo.here;
    var left_hi = tile.hi.here;
    while any(left_lo) || any(left_hi) {
        let run = scan_run(tile, left_lo, left_hi, p.chunks * CHUNK);
        left_lo &= !scan_ran(run.lo);
        left_hi &= !scan_ran(run.hi);
        let keys = sums_chunk(run.keys, chunk);
        if keys.x < keys.y {
            let largest = scan_scores(tile, run, keys, zero, invocation);
            let mass = scan_weigh(run, keys, largest, zero, invocation);
            part_lo = part_of(tile.lo, run.lo, keys, chunk);
            part_hi = part_of(tile.hi, run.hi, keys, chunk);
            scan_values(keys, zero, invocation);
            if invocation == 0u {
                part_put_sums(part_lo, largest.lo, mass.lo);
                part_put_sums(part_hi, largest.hi, mass.hi);
            }
        }
    }
}
