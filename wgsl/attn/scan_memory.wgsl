// What invocations give each other, by workgroup memory; queries are read where they are needed, all from one address.
const SCAN_KEYS = CHUNK;
var<workgroup> scan_weights: array<vec4<f32>, 2u * SCAN_KEYS>;
var<workgroup> scan_slots: array<u32, SCAN_KEYS>;
var<workgroup> scan_pairs: array<vec4<f32>, 2u * WG>;

// Invocations that have the same eight elements of different keys.
const SCAN_GROUPS = WG / RUNS;

fn scan_place(position: u32) -> u32 {
    return position % CHUNK;
}

fn scan_queries(tile: ScanTile, zero: u32, invocation: u32) {
}

fn scan_query_own(i: u32) -> KvEight {
    return KvEight();
}

fn scan_query(own: KvEight, head: u32, i: u32, pair: u32) -> KvEight {
    return KvEight(queries_four(head, pair, 2u * i), queries_four(head, pair, min(2u * i + 1u, HEAD_DIM / 4u - 1u)));
}

fn scan_largest(mine: ScanPairs, invocation: u32) -> ScanPairs {
    scan_pairs[invocation] = mine.lo;
    scan_pairs[WG + invocation] = mine.hi;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width >> 1u) {
        if invocation < width {
            scan_pairs[invocation] = max(scan_pairs[invocation], scan_pairs[invocation + width]);
            scan_pairs[WG + invocation] = max(scan_pairs[WG + invocation], scan_pairs[WG + invocation + width]);
        }
        workgroupBarrier();
    }
    let all = ScanPairs(scan_pairs[0], scan_pairs[WG]);
    workgroupBarrier();
    return all;
}

// Also the barrier that weights need.
fn scan_mass(mine: ScanPairs, invocation: u32) -> ScanPairs {
    scan_pairs[invocation] = mine.lo;
    scan_pairs[WG + invocation] = mine.hi;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width >> 1u) {
        if invocation < width {
            scan_pairs[invocation] += scan_pairs[invocation + width];
            scan_pairs[WG + invocation] += scan_pairs[WG + invocation + width];
        }
        workgroupBarrier();
    }
    let all = ScanPairs(scan_pairs[0], scan_pairs[WG]);
    workgroupBarrier();
    return all;
}

// The weighted sums of the values, each put by one invocation: an invocation has eight elements of some keys, four by four.
fn scan_values(keys: vec2<u32>, zero: u32, invocation: u32) {
    let to_values = kv_values();
    let i = min(invocation % RUNS, KV_EIGHTS - 1u);
    let step = 4u * SCAN_GROUPS;
    var a0 = KvEight();
    var a1 = KvEight();
    var a2 = KvEight();
    var a3 = KvEight();
    var a4 = KvEight();
    var a5 = KvEight();
    var a6 = KvEight();
    var a7 = KvEight();
    for (var base = keys.x / step * step + invocation / RUNS * 4u + zero; base < keys.y; base += step) {
        let key = base % CHUNK;
        let v = array<KvEight, 4>(
            kv_eight(scan_slots[key] + to_values, i), kv_eight(scan_slots[key + 1u] + to_values, i),
            kv_eight(scan_slots[key + 2u] + to_values, i), kv_eight(scan_slots[key + 3u] + to_values, i),
        );
        let lo = transpose(mat4x4<f32>(
            scan_weights[key], scan_weights[key + 1u], scan_weights[key + 2u], scan_weights[key + 3u],
        ));
        let at = SCAN_KEYS + key;
        let hi = transpose(mat4x4<f32>(
            scan_weights[at], scan_weights[at + 1u], scan_weights[at + 2u], scan_weights[at + 3u],
        ));
        a0 = scan_add(a0, lo[0], v);
        a1 = scan_add(a1, lo[1], v);
        a2 = scan_add(a2, lo[2], v);
        a3 = scan_add(a3, lo[3], v);
        a4 = scan_add(a4, hi[0], v);
        a5 = scan_add(a5, hi[1], v);
        a6 = scan_add(a6, hi[2], v);
        a7 = scan_add(a7, hi[3], v);
    }
    workgroupBarrier();
    scan_put_four(0u, array<KvEight, 4>(a0, a1, a2, a3), invocation);
    scan_put_four(4u, array<KvEight, 4>(a4, a5, a6, a7), invocation);
}

// Sums over the groups for four pairs, in the weights' memory.
fn scan_put_four(first: u32, sums: array<KvEight, 4>, invocation: u32) {
    scan_weights[invocation] = sums[0].a;
    scan_weights[WG + invocation] = sums[0].b;
    scan_weights[2u * WG + invocation] = sums[1].a;
    scan_weights[3u * WG + invocation] = sums[1].b;
    scan_weights[4u * WG + invocation] = sums[2].a;
    scan_weights[5u * WG + invocation] = sums[2].b;
    scan_weights[6u * WG + invocation] = sums[3].a;
    scan_weights[7u * WG + invocation] = sums[3].b;
    workgroupBarrier();
    for (var at = invocation; at < 4u * RUNS; at += WG) {
        let pair = at / RUNS;
        let i = at % RUNS;
        var sum = KvEight();
        for (var group = 0u; group < SCAN_GROUPS; group += 1u) {
            let from_group = 2u * WG * pair + group * RUNS + i;
            sum = KvEight(sum.a + scan_weights[from_group], sum.b + scan_weights[WG + from_group]);
        }
        if i < KV_EIGHTS {
            scan_put(first + pair, i, sum);
        }
    }
    workgroupBarrier();
}
