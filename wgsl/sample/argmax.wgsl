// The first candidate of each `ITEMS` of a row, or of the whole row.
const ITEMS = 1024u;

var<workgroup> first: array<vec2<u32>, WG>;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let start = tile.x * ITEMS;
    let end = select(min(start + ITEMS, p.n), p.n, MERGE);
    var mine = order_last();
    for (var i = start + invocation; i < end; i += WG) {
        let other = candidate(tile.y, i);
        if order_before(other, mine) {
            mine = other;
        }
    }
    first[invocation] = mine;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width = width >> 1u) {
        if invocation < width && order_before(first[invocation + width], first[invocation]) {
            first[invocation] = first[invocation + width];
        }
        workgroupBarrier();
    }
    if invocation == 0u {
        keep(tile, first[0]);
    }
}
