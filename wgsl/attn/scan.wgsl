// Attention of eight pairs, each of a row and a query head, to some of their keys, all of one key head: whatever is loaded
// of a key or value serves all eight. What a pair has does not depend on the others: a key that it does not see adds
// nothing to its sums, exactly.
//
// A chunk's weights (at first scores) are in scan_weights, those of the first four pairs before the others', and where its
// keys are in scan_slots, both at scan_place.
const STEP = 4u * WG;

// A number for each pair.
struct ScanPairs {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

// The scores of the keys from keys.x up to keys.y, which are of one chunk, and the pairs' largest.
fn scan_scores(tile: ScanTile, run: ScanRun, keys: vec2<u32>, zero: u32, invocation: u32) -> ScanPairs {
    scan_queries(tile, zero, invocation);
    var largest = ScanPairs(vec4<f32>(LOWEST), vec4<f32>(LOWEST));
    for (var base = keys.x / STEP * STEP + zero; base < keys.y; base += STEP) {
        let first = base + invocation;
        let last = keys.y - 1u;
        let slots = vec4<u32>(
            kv_key(run.sequence, tile.kv_head, clamp(first, keys.x, last)),
            kv_key(run.sequence, tile.kv_head, clamp(first + WG, keys.x, last)),
            kv_key(run.sequence, tile.kv_head, clamp(first + 2u * WG, keys.x, last)),
            kv_key(run.sequence, tile.kv_head, clamp(first + 3u * WG, keys.x, last)),
        );
        // Of each pair the scores of four keys.
        var s0 = vec4<f32>(0.0);
        var s1 = vec4<f32>(0.0);
        var s2 = vec4<f32>(0.0);
        var s3 = vec4<f32>(0.0);
        var s4 = vec4<f32>(0.0);
        var s5 = vec4<f32>(0.0);
        var s6 = vec4<f32>(0.0);
        var s7 = vec4<f32>(0.0);
        for (var i = zero; i < KV_EIGHTS; i += 1u) {
            let k = array<KvEight, 4>(
                kv_eight(slots.x, i), kv_eight(slots.y, i), kv_eight(slots.z, i), kv_eight(slots.w, i),
            );
            let own = scan_query_own(i);
            s0 += scan_dots(scan_query(own, tile.lo.out.x, i, 0u), k);
            s1 += scan_dots(scan_query(own, tile.lo.out.y, i, 1u), k);
            s2 += scan_dots(scan_query(own, tile.lo.out.z, i, 2u), k);
            s3 += scan_dots(scan_query(own, tile.lo.out.w, i, 3u), k);
            s4 += scan_dots(scan_query(own, tile.hi.out.x, i, 4u), k);
            s5 += scan_dots(scan_query(own, tile.hi.out.y, i, 5u), k);
            s6 += scan_dots(scan_query(own, tile.hi.out.z, i, 6u), k);
            s7 += scan_dots(scan_query(own, tile.hi.out.w, i, 7u), k);
        }
        let a = scan_keep(run, first, slots.x, vec4<f32>(s0.x, s1.x, s2.x, s3.x), vec4<f32>(s4.x, s5.x, s6.x, s7.x));
        let b = scan_keep(run, first + WG, slots.y, vec4<f32>(s0.y, s1.y, s2.y, s3.y), vec4<f32>(s4.y, s5.y, s6.y, s7.y));
        let c = scan_keep(run, first + 2u * WG, slots.z, vec4<f32>(s0.z, s1.z, s2.z, s3.z), vec4<f32>(s4.z, s5.z, s6.z, s7.z));
        let d = scan_keep(run, first + 3u * WG, slots.w, vec4<f32>(s0.w, s1.w, s2.w, s3.w), vec4<f32>(s4.w, s5.w, s6.w, s7.w));
        largest.lo = max(largest.lo, max(max(a.lo, b.lo), max(c.lo, d.lo)));
        largest.hi = max(largest.hi, max(max(a.hi, b.hi), max(c.hi, d.hi)));
    }
    return scan_largest(largest, invocation);
}

fn scan_dots(q: KvEight, k: array<KvEight, 4>) -> vec4<f32> {
    return vec4<f32>(kv_dot(q, k[0]), kv_dot(q, k[1]), kv_dot(q, k[2]), kv_dot(q, k[3]));
}

// Keeps the scores of a key; those of pairs that do not see it are the lowest.
fn scan_keep(run: ScanRun, position: u32, slot: u32, lo: vec4<f32>, hi: vec4<f32>) -> ScanPairs {
    let scores = ScanPairs(
        select(vec4<f32>(LOWEST), lo * p.scale, scan_sees(run.lo, position)),
        select(vec4<f32>(LOWEST), hi * p.scale, scan_sees(run.hi, position)),
    );
    let i = scan_place(position);
    scan_slots[i] = slot;
    scan_weights[i] = scores.lo;
    scan_weights[SCAN_KEYS + i] = scores.hi;
    return scores;
}

fn scan_sees(seen: ScanSeen, position: u32) -> vec4<bool> {
    return (vec4<u32>(position) >= seen.first) & (vec4<u32>(position) < seen.end);
}

// Makes weights of the scores, and sums them.
fn scan_weigh(run: ScanRun, keys: vec2<u32>, largest: ScanPairs, zero: u32, invocation: u32) -> ScanPairs {
    var mass = ScanPairs(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var base = keys.x / STEP * STEP + zero; base < keys.y; base += STEP) {
        for (var position = base + invocation; position < base + STEP; position += WG) {
            let i = scan_place(position);
            let lo = select(vec4<f32>(0.0), exp(scan_weights[i] - largest.lo), scan_sees(run.lo, position));
            let hi = select(vec4<f32>(0.0), exp(scan_weights[SCAN_KEYS + i] - largest.hi), scan_sees(run.hi, position));
            scan_weights[i] = lo;
            scan_weights[SCAN_KEYS + i] = hi;
            mass = ScanPairs(mass.lo + lo, mass.hi + hi);
        }
    }
    return scan_mass(mass, invocation);
}

// Adds four keys' values, weighted.
fn scan_add(sum: KvEight, weights: vec4<f32>, v: array<KvEight, 4>) -> KvEight {
    var a = sum.a + weights.x * v[0].a;
    var b = sum.b + weights.x * v[0].b;
    a += weights.y * v[1].a;
    b += weights.y * v[1].b;
    a += weights.z * v[2].a;
    b += weights.z * v[2].b;
    a += weights.w * v[3].a;
    b += weights.w * v[3].b;
    return KvEight(a, b);
}
