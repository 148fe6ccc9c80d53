// Sorts (token, expert) pairs by expert, in one workgroup: each invocation has the experts whose number is its own modulo
// WG, counts their pairs, and writes them in ascending order. Then the list of tiles of up to p.tile_rows pairs of one
// expert, and the grids of the two expert products that go over it.
const MAX_EXPERTS = 512u;
const PIECE = 2048u;

var<workgroup> piece: array<u32, PIECE>;
var<workgroup> count: array<u32, MAX_EXPERTS>;
var<workgroup> tile_count: array<u32, MAX_EXPERTS>;

// Brings the next piece of ids into workgroup memory.
fn stage(first: u32, invocation: u32) {
    workgroupBarrier();
    for (var i = invocation; i < PIECE && first + i < p.pairs; i += WG) {
        piece[i] = min(ids[first + i], p.experts - 1u);
    }
    workgroupBarrier();
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile_rows = max(p.tile_rows, 1u);
    let zero = grid_zero(workgroup);
    for (var e = invocation; e < p.experts; e += WG) {
        count[e] = 0u;
    }
    for (var first = zero; first < p.pairs; first += PIECE) {
        stage(first, invocation);
        let held = min(PIECE, p.pairs - first);
        for (var e = invocation; e < p.experts; e += WG) {
            var found = 0u;
            for (var i = 0u; i < held; i += 1u) {
                found += select(0u, 1u, piece[i] == e);
            }
            count[e] += found;
        }
    }
    for (var e = invocation; e < p.experts; e += WG) {
        tile_count[e] = (count[e] + tile_rows - 1u) / tile_rows;
    }
    workgroupBarrier();
    var all_tiles = 0u;
    for (var e = zero; e < p.experts; e += 1u) {
        all_tiles += tile_count[e];
    }
    for (var e = invocation; e < p.experts; e += WG) {
        var before = 0u;
        var tile = 0u;
        for (var other = 0u; other < e; other += 1u) {
            before += count[other];
            tile += tile_count[other];
        }
        let mine = count[e];
        counts[e] = mine;
        offsets[e] = before;
        for (var start = 0u; start < mine && tile < p.max_tiles; start += tile_rows) {
            tiles[tile] = vec4<u32>(e, before + start, before + min(start + tile_rows, mine), 0u);
            tile += 1u;
        }
    }
    // Tiles that a grid larger than the list would reach.
    for (var tile = all_tiles + invocation; tile < p.max_tiles; tile += WG) {
        tiles[tile] = vec4<u32>(0u);
    }
    if invocation == 0u {
        offsets[p.experts] = p.pairs;
        grids[0] = p.first_grid;
        grids[1] = min(all_tiles, p.max_tiles);
        grids[2] = 1u;
        grids[3] = p.second_grid;
        grids[4] = min(all_tiles, p.max_tiles);
        grids[5] = 1u;
    }
    // Each expert's next free place, in its invocation's own memory.
    var next = array<u32, 2>(0u, 0u);
    for (var slot = 0u; slot < 2u; slot += 1u) {
        for (var other = 0u; other < min(invocation + slot * WG, p.experts); other += 1u) {
            next[slot] += count[other];
        }
    }
    for (var first = zero; first < p.pairs; first += PIECE) {
        stage(first, invocation);
        let held = min(PIECE, p.pairs - first);
        for (var i = 0u; i < held; i += 1u) {
            if piece[i] == invocation {
                sorted[next[0]] = first + i;
                next[0] += 1u;
            } else if piece[i] == invocation + WG {
                sorted[next[1]] = first + i;
                next[1] += 1u;
            }
        }
    }
}
