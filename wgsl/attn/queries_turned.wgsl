// Queries from a row of projections, normed and rotated as attn/head_turn does, in workgroup memory. The row's own key and
// value go to the cache first. Tiles are of one row and all query heads of their key head; eight invocations turn a head.
const FOURS = HEAD_DIM / 4u;
const TURN_GROUPS = WG / 8u;

var<workgroup> turned: array<vec4<f32>, 8u * FOURS>;
// Where in it the head is that is stored.
var<private> turned_stored: u32;

fn kv_four(i: u32) -> vec4<f32> {
    return turned[turned_stored + i];
}

fn queries_four(head: u32, pair: u32, i: u32) -> vec4<f32> {
    return turned[pair * FOURS + i];
}

// Turns head number `head` of a row, a query's, key's or value's by its role, and puts it in slot `slot`, unless that is none of
// the `slots`. A workgroup's groups of eight call it at once, each for a head of its own.
fn turned_head(row: u32, head: u32, role: u32, slot: u32, slots: u32, invocation: u32) {
    let lane = invocation % 8u;
    let from_head = (row * (p.heads + 2u * p.kv_heads) + head) * FOURS;
    var squares = vec4<f32>(0.0);
    for (var i = lane; i < FOURS; i += 8u) {
        squares += turn_squares(qkv[from_head + i]);
    }
    let scale = turn_scale(eight_sum(turn_eighth(squares), invocation));
    if slot >= slots {
        return;
    }
    let to = slot * FOURS;
    let turns = kv_position(row) * (HEAD_DIM / 2u);
    if role == 2u {
        for (var i = lane; i < FOURS; i += 8u) {
            turned[to + i] = qkv[from_head + i];
        }
    } else if INTERLEAVED {
        for (var i = lane; i < FOURS; i += 8u) {
            let x = qkv[from_head + i] * turned_scale(role, i, scale);
            let at = turns + 2u * i;
            turned[to + i] = vec4<f32>(turn_pair(x.xy, rotations[at]), turn_pair(x.zw, rotations[at + 1u]));
        }
    } else {
        for (var i = lane; i < FOURS / 2u; i += 8u) {
            let j = i + FOURS / 2u;
            let a = qkv[from_head + i] * turned_scale(role, i, scale);
            let b = qkv[from_head + j] * turned_scale(role, j, scale);
            let at = turns + 4u * i;
            let x = turn_pair(vec2<f32>(a.x, b.x), rotations[at]);
            let y = turn_pair(vec2<f32>(a.y, b.y), rotations[at + 1u]);
            let z = turn_pair(vec2<f32>(a.z, b.z), rotations[at + 2u]);
            let w = turn_pair(vec2<f32>(a.w, b.w), rotations[at + 3u]);
            turned[to + i] = vec4<f32>(x.x, y.x, z.x, w.x);
            turned[to + j] = vec4<f32>(x.y, y.y, z.y, w.y);
        }
    }
}

// Makes a tile's queries of row `row` of the projections; where it has the row's own position, the key and value too.
fn turned_ready(tile: ScanTile, row: u32, newest: bool, invocation: u32) {
    let group = invocation / 8u;
    if newest {
        for (var base = 0u; base < 2u; base += TURN_GROUPS) {
            let slot = base + group;
            let value = min(slot, 1u);
            turned_head(row, p.heads + value * p.kv_heads + tile.kv_head, 1u + value, slot, 2u, invocation);
        }
        workgroupBarrier();
        let key = kv_key(kv_sequence(row), tile.kv_head, kv_position(row));
        turned_stored = 0u;
        kv_store_head(key, invocation);
        turned_stored = FOURS;
        kv_store_head(key + kv_values(), invocation);
        // The workgroup reads them from the cache.
        storageBarrier();
        workgroupBarrier();
    }
    for (var base = 0u; base < 8u; base += TURN_GROUPS) {
        let pair = base + group;
        turned_head(row, tile.kv_head * p.group + min(pair, p.group - 1u), 0u, pair, p.group, invocation);
    }
    workgroupBarrier();
}
