// The first `KEPT` of each `ITEMS` candidates of a row, in order: a bitonic sort (Batcher 1968) by a workgroup.
const ITEMS = 1024u;
const KEPT = 64u;

var<workgroup> items: array<vec2<u32>, ITEMS>;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    for (var i = invocation; i < ITEMS; i += WG) {
        items[i] = candidate(tile.y, tile.x * ITEMS + i);
    }
    for (var size = 2u; size <= ITEMS; size = size << 1u) {
        for (var stride = size >> 1u; stride > 0u; stride = stride >> 1u) {
            workgroupBarrier();
            for (var pair = invocation; pair < ITEMS / 2u; pair += WG) {
                let a = 2u * pair - (pair & (stride - 1u));
                let b = a + stride;
                let in_order = (a & size) == 0u;
                let left = items[a];
                let right = items[b];
                if order_before(right, left) == in_order {
                    items[a] = right;
                    items[b] = left;
                }
            }
        }
    }
    workgroupBarrier();
    if invocation < KEPT {
        let lists = (p.n + ITEMS - 1u) / ITEMS;
        kept[(tile.y * lists + tile.x) * KEPT + invocation] = items[invocation];
    }
}
