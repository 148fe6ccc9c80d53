// The first `KEPT` of each `ITEMS` candidates of a row, sorted, by a workgroup. A bitonic sort (Batcher 1968) sorts lists of
// `KEPT`, every other one backwards; then lists are merged in pairs, and the second half of each merge is dropped.
const ITEMS = 1024u;
const KEPT = 64u;

var<workgroup> items: array<vec2<u32>, ITEMS>;

// Sorts two candidates, forwards or backwards.
fn exchange(a: u32, b: u32, in_order: bool) {
    let left = items[a];
    let right = items[b];
    if order_before(right, left) == in_order {
        items[a] = right;
        items[b] = left;
    }
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    for (var i = invocation; i < ITEMS; i += WG) {
        items[i] = candidate(tile.y, tile.x * ITEMS + i);
    }
    for (var size = 2u; size <= KEPT; size = size << 1u) {
        for (var stride = size >> 1u; stride > 0u; stride = stride >> 1u) {
            workgroupBarrier();
            for (var pair = invocation; pair < ITEMS / 2u; pair += WG) {
                let a = 2u * pair - (pair & (stride - 1u));
                exchange(a, a + stride, (a & size) == 0u);
            }
        }
    }
    var left_over = ITEMS;
    for (var span = 2u * KEPT; span <= ITEMS; span = span << 1u) {
        // The second list is backwards, so that the first of each pair of candidates are the first `KEPT` of both lists.
        left_over = left_over >> 1u;
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
    if invocation < KEPT {
        let lists = (p.n + ITEMS - 1u) / ITEMS;
        kept[(tile.y * lists + tile.x) * KEPT + invocation] = items[invocation];
    }
}
