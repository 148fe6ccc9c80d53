// What invocations give each other, by a workgroup of eight within one subgroup: queries and weights are shuffled.

// What an invocation keeps is its own: an eighth of the keys, and the query of the pair of its number.
const SCAN_KEYS = CHUNK / WG;
var<private> scan_weights: array<vec4<f32>, 2u * SCAN_KEYS>;
var<private> scan_slots: array<u32, SCAN_KEYS>;
var<private> scan_own: array<vec4<f32>, 2u * KV_EIGHTS>;

fn scan_place(position: u32) -> u32 {
    return position % CHUNK / WG;
}

fn scan_queries(tile: ScanTile, zero: u32, invocation: u32) {
    let quad = select(tile.lo.out, tile.hi.out, invocation >= 4u);
    let pair = select(quad.xy, quad.zw, (invocation & 2u) != 0u);
    let head = select(pair.x, pair.y, (invocation & 1u) != 0u);
    for (var i = zero; i < HEAD_DIM / 4u; i += 1u) {
        scan_own[i] = queries_four(head, invocation, i);
    }
}

fn scan_query_own(i: u32) -> KvEight {
    return KvEight(scan_own[2u * i], scan_own[2u * i + 1u]);
}

fn scan_query(own: KvEight, head: u32, i: u32, pair: u32) -> KvEight {
    return KvEight(subgroupShuffle(own.a, pair), subgroupShuffle(own.b, pair));
}

fn scan_largest(mine: ScanPairs, invocation: u32) -> ScanPairs {
    var all = mine;
    all = ScanPairs(max(all.lo, subgroupShuffle(all.lo, invocation ^ 4u)), max(all.hi, subgroupShuffle(all.hi, invocation ^ 4u)));
    all = ScanPairs(max(all.lo, subgroupShuffle(all.lo, invocation ^ 2u)), max(all.hi, subgroupShuffle(all.hi, invocation ^ 2u)));
    return ScanPairs(max(all.lo, subgroupShuffle(all.lo, invocation ^ 1u)), max(all.hi, subgroupShuffle(all.hi, invocation ^ 1u)));
}

fn scan_mass(mine: ScanPairs, invocation: u32) -> ScanPairs {
    var all = mine;
    all = ScanPairs(all.lo + subgroupShuffle(all.lo, invocation ^ 4u), all.hi + subgroupShuffle(all.hi, invocation ^ 4u));
    all = ScanPairs(all.lo + subgroupShuffle(all.lo, invocation ^ 2u), all.hi + subgroupShuffle(all.hi, invocation ^ 2u));
    return ScanPairs(all.lo + subgroupShuffle(all.lo, invocation ^ 1u), all.hi + subgroupShuffle(all.hi, invocation ^ 1u));
}

fn scan_shuffled(x: u32, slot: u32, i: u32) -> array<KvEight, 4> {
    return array<KvEight, 4>(
        kv_eight(subgroupShuffle(slot, x), i), kv_eight(subgroupShuffle(slot, x + 1u), i),
        kv_eight(subgroupShuffle(slot, x + 2u), i), kv_eight(subgroupShuffle(slot, x + 3u), i),
    );
}

fn scan_add_eight(sum: KvEight, weight: f32, v: array<KvEight, 4>, w: array<KvEight, 4>) -> KvEight {
    let first = vec4<f32>(
        subgroupShuffle(weight, 0u), subgroupShuffle(weight, 1u), subgroupShuffle(weight, 2u), subgroupShuffle(weight, 3u),
    );
    let second = vec4<f32>(
        subgroupShuffle(weight, 4u), subgroupShuffle(weight, 5u), subgroupShuffle(weight, 6u), subgroupShuffle(weight, 7u),
    );
    return scan_add(scan_add(sum, first, v), second, w);
}

// The weighted sums of the values, each put by one invocation: an invocation has eight of 64 elements.
fn scan_values(keys: vec2<u32>, zero: u32, invocation: u32) {
    let to_values = kv_values();
    for (var base_of_eight = zero; base_of_eight < KV_EIGHTS; base_of_eight += WG) {
        let i = min(base_of_eight + invocation, KV_EIGHTS - 1u);
        var a0 = KvEight();
        var a1 = KvEight();
        var a2 = KvEight();
        var a3 = KvEight();
        var a4 = KvEight();
        var a5 = KvEight();
        var a6 = KvEight();
        var a7 = KvEight();
        for (var base = keys.x / WG * WG + zero; base < keys.y; base += WG) {
            let key = scan_place(base);
            let slot = scan_slots[key] + to_values;
            let lo = scan_weights[key];
            let hi = scan_weights[SCAN_KEYS + key];
            let v = scan_shuffled(0u, slot, i);
            let w = scan_shuffled(4u, slot, i);
            a0 = scan_add_eight(a0, lo.x, v, w);
            a1 = scan_add_eight(a1, lo.y, v, w);
            a2 = scan_add_eight(a2, lo.z, v, w);
            a3 = scan_add_eight(a3, lo.w, v, w);
            a4 = scan_add_eight(a4, hi.x, v, w);
            a5 = scan_add_eight(a5, hi.y, v, w);
            a6 = scan_add_eight(a6, hi.z, v, w);
            a7 = scan_add_eight(a7, hi.w, v, w);
        }
        if base_of_eight + invocation < KV_EIGHTS {
            scan_put(0u, i, a0);
            scan_put(1u, i, a1);
            scan_put(2u, i, a2);
            scan_put(3u, i, a3);
            scan_put(4u, i, a4);
            scan_put(5u, i, a5);
            scan_put(6u, i, a6);
            scan_put(7u, i, a7);
        }
    }
}
