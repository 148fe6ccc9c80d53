// The first `KEPT` of each `TILE` candidates of a row, sorted, by a workgroup. The first candidate of each invocation is sorted
// among them. What comes after the `KEPT`th of these is not among the tile's first `KEPT`; what is left belongs to `KEPT`
// invocations, so that it fits the `ITEMS`, and is mostly little more than `KEPT`.
const TILE = 4096u;
const KEPT = 64u;
const ITEMS = KEPT * (TILE / WG);

var<workgroup> items: array<vec2<u32>, ITEMS>;
var<workgroup> found: atomic<u32>;

// Sorts two candidates, forwards or backwards.
fn exchange(a: u32, b: u32, in_order: bool) {
    let left = items[a];
    let right = items[b];
    if order_before(right, left) == in_order {
        items[a] = right;
        items[b] = left;
    }
}

// Puts the first `KEPT` of the first `n <= most` items in order. Items from `n` to the next power of two sort last. A bitonic
// sort (Batcher 1968) sorts lists of `KEPT`, every other one backwards; then lists are merged in pairs, and the second half of
// each merge is dropped.
fn sort_first(n: u32, most: u32, invocation: u32) {
    for (var size = 2u; size <= KEPT; size = size << 1u) {
        for (var stride = size >> 1u; stride > 0u; stride = stride >> 1u) {
            workgroupBarrier();
            for (var pair = invocation; pair < (n + KEPT - 1u) / KEPT * (KEPT / 2u); pair += WG) {
                let a = 2u * pair - (pair & (stride - 1u));
                exchange(a, a + stride, (a & size) == 0u);
            }
        }
    }
    for (var span = 2u * KEPT; span <= most; span = span << 1u) {
        let left_over = select(0u, (n + span - 1u) / span * KEPT, n > span / 2u);
        // The second list is backwards, so that the first of each pair of candidates are the first `KEPT` of both lists.
        workgroupBarrier();
        for (var i = invocation; i < left_over; i += WG) {
            let a = (i / KEPT) * span + i % KEPT;
            let right = items[a + (span >> 1u)];
            if order_before(right, items[a]) {
                items[a] = right;
            }
        }
        for (var stride = KEPT / 2u; stride > 0u; stride = stride >> 1u) {
            workgroupBarrier();
            for (var pair = invocation; pair < left_over / 2u; pair += WG) {
                let list = pair / (KEPT / 2u);
                let place = pair % (KEPT / 2u);
                let a = list * span + 2u * place - (place & (stride - 1u));
                exchange(a, a + stride, (list & 1u) == 0u);
            }
        }
    }
    workgroupBarrier();
}

// Keeps a candidate that does not come after `least`.
fn keep_until(least: vec2<u32>, other: vec2<u32>) {
    if !order_before(least, other) && order_before(other, order_last()) {
        items[min(atomicAdd(&found, 1u), ITEMS - 1u)] = other;
    }
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let end = min(p.n, (tile.x + 1u) * TILE);
    var mine = order_last();
    // Four loads wait for memory at once. All four are of the tile.
    for (var i = tile.x * TILE + invocation; i < end; i += 4u * WG) {
        let a = candidate(tile.y, i);
        let b = candidate(tile.y, i + WG);
        let c = candidate(tile.y, i + 2u * WG);
        let d = candidate(tile.y, i + 3u * WG);
        mine = order_first(mine, order_first(order_first(a, b), order_first(c, d)));
    }
    items[invocation] = mine;
    sort_first(WG, WG, invocation);
    let least = items[KEPT - 1u];
    workgroupBarrier();
    for (var i = invocation; i < ITEMS; i += WG) {
        items[i] = order_last();
    }
    if invocation == 0u {
        atomicStore(&found, 0u);
    }
    workgroupBarrier();
    for (var i = tile.x * TILE + invocation; i < end; i += 4u * WG) {
        let a = candidate(tile.y, i);
        let b = candidate(tile.y, i + WG);
        let c = candidate(tile.y, i + 2u * WG);
        let d = candidate(tile.y, i + 3u * WG);
        keep_until(least, a);
        keep_until(least, b);
        keep_until(least, c);
        keep_until(least, d);
    }
    workgroupBarrier();
    sort_first(min(atomicLoad(&found), ITEMS), ITEMS, invocation);
    if invocation < KEPT {
        let lists = (p.n + TILE - 1u) / TILE;
        kept[(tile.y * lists + tile.x) * KEPT + invocation] = items[invocation];
    }
}
