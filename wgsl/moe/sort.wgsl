// Sorts the assignments of tokens to experts by expert, in one workgroup. An invocation has the experts whose number is its
// own modulo WG: it counts their assignments and writes them in ascending order. It also writes the list of tiles of at most
// `p.tile_rows` assignments of one expert, and the grids of the two expert products over the tiles.
const MAX_EXPERTS = 513u;
const PIECE = 2048u;

var<workgroup> piece: array<u32, PIECE>;
var<workgroup> count: array<u32, MAX_EXPERTS>;
var<workgroup> tile_count: array<u32, MAX_EXPERTS>;

// Copies the next piece of ids to workgroup memory.
fn stage(first: u32, invocation: u32) {
    workgroupBarrier();
    for (var i = invocation; i < PIECE && first + i < p.assignments; i += WG) {
        piece[i] = min(ids[first + i], p.experts - 1u);
    }
    workgroupBarrier();
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile_rows = max(p.tile_rows, 1u);
    let zero = opaque_zero(workgroup);
    for (var e = invocation; e < p.experts; e += WG) {
        count[e] = 0u;
    }
    for (var first = zero; first < p.assignments; first += PIECE) {
        stage(first, invocation);
        let staged = min(PIECE, p.assignments - first);
        for (var e = invocation; e < p.experts; e += WG) {
            var found = 0u;
            for (var i = 0u; i < staged; i += 1u) {
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
    // Empty tiles, for a grid larger than the list.
    for (var tile = all_tiles + invocation; tile < p.max_tiles; tile += WG) {
        tiles[tile] = vec4<u32>(0u);
    }
    if invocation == 0u {
        offsets[p.experts] = p.assignments;
        grids[0] = p.first_grid;
        grids[1] = min(all_tiles, p.max_tiles);
        grids[2] = 1u;
        grids[3] = p.second_grid;
        grids[4] = min(all_tiles, p.max_tiles);
        grids[5] = 1u;
    }
    // The next free index of each of the invocation's experts.
    var next = array<u32, 3>(0u, 0u, 0u);
    for (var own = 0u; own < 3u; own += 1u) {
        for (var other = 0u; other < min(invocation + own * WG, p.experts); other += 1u) {
            next[own] += count[other];
        }
    }
    for (var first = zero; first < p.assignments; first += PIECE) {
        stage(first, invocation);
        let staged = min(PIECE, p.assignments - first);
        for (var i = 0u; i < staged; i += 1u) {
            if piece[i] == invocation {
                sorted[next[0]] = first + i;
                next[0] += 1u;
            } else if piece[i] == invocation + WG {
                sorted[next[1]] = first + i;
                next[1] += 1u;
            } else if piece[i] == invocation + 2u * WG {
                sorted[next[2]] = first + i;
                next[2] += 1u;
            }
        }
    }
}
