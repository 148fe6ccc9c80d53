// Queries from a row of projections, with QK-norm and RoPE as attn/head_rope computes them, in workgroup memory. The
// row's own key and value go to the cache first. A tile has one row and all query heads of its key head; eight
// invocations rotate a head.
const HEAD_VEC4S = HEAD_DIM / 4u;
const ROPE_GROUPS = WG / 8u;

// Query q is slot q / 2 of half q % 2. For each half, elements 8 * i to 8 * i + 7 of the query in its slot n are vectors
// 2 * n and 2 * n + 1 of array i.
var<workgroup> attn_queries: array<array<array<vec4<f32>, 8>, KV_VEC8S>, 2>;
// The query in whose place the head is that is being stored.
var<private> rope_stored: u32;

fn rope_put(query: u32, i: u32, x: vec4<f32>) {
    attn_queries[query % 2u][i / 2u][query / 2u * 2u + i % 2u] = x;
}

fn queries_vec4(head: u32, query: u32, i: u32) -> vec4<f32> {
    return attn_queries[query % 2u][i / 2u][query / 2u * 2u + i % 2u];
}

fn kv_vec4(i: u32) -> vec4<f32> {
    return queries_vec4(0u, rope_stored, i);
}

// The only slice is ready.
fn queries_ready_slice(slice: u32, invocation: u32) {
}

// Puts head `head` of a row in the place of query `slot`, unless that is beyond `slots`. The role says whether it is
// a query's (0), a key's (1) or a value's (2). All groups of eight invocations call it at once, each for its own head.
fn rope_head(row: u32, head: u32, role: u32, slot: u32, slots: u32, invocation: u32) {
    let lane = invocation % 8u;
    let from_head = (row * (p.heads + 2u * p.kv_heads) + head) * HEAD_VEC4S;
    var squares = vec4<f32>(0.0);
    for (var i = lane; i < HEAD_VEC4S; i += 8u) {
        squares += rope_squares(qkv[from_head + i]);
    }
    let inverse_rms = rope_inverse_rms(sum8(rope_eighth_sum(squares), invocation));
    if slot >= slots {
        return;
    }
    let angles = kv_position(row) * (HEAD_DIM / 2u);
    if role == 2u {
        for (var i = lane; i < HEAD_VEC4S; i += 8u) {
            rope_put(slot, i, qkv[from_head + i]);
        }
    } else if INTERLEAVED {
        for (var i = lane; i < HEAD_VEC4S; i += 8u) {
            let x = qkv[from_head + i] * rope_scale(role, i, inverse_rms);
            let at = angles + 2u * i;
            rope_put(slot, i, vec4<f32>(rope_rotate(x.xy, rotations[at]), rope_rotate(x.zw, rotations[at + 1u])));
        }
    } else {
        for (var i = lane; i < HEAD_VEC4S / 2u; i += 8u) {
            let j = i + HEAD_VEC4S / 2u;
            let a = qkv[from_head + i] * rope_scale(role, i, inverse_rms);
            let b = qkv[from_head + j] * rope_scale(role, j, inverse_rms);
            let at = angles + 4u * i;
            let x = rope_rotate(vec2<f32>(a.x, b.x), rotations[at]);
            let y = rope_rotate(vec2<f32>(a.y, b.y), rotations[at + 1u]);
            let z = rope_rotate(vec2<f32>(a.z, b.z), rotations[at + 2u]);
            let w = rope_rotate(vec2<f32>(a.w, b.w), rotations[at + 3u]);
            rope_put(slot, i, vec4<f32>(x.x, y.x, z.x, w.x));
            rope_put(slot, j, vec4<f32>(x.y, y.y, z.y, w.y));
        }
    }
}

// Makes a tile's queries from row `row` of the projections. With `store`, the row's key and value go to the cache.
fn queries_ready(tile: AttnTile, row: u32, store: bool, invocation: u32) {
    let group = invocation / 8u;
    if store {
        for (var base = 0u; base < 2u; base += ROPE_GROUPS) {
            let slot = base + group;
            let value = min(slot, 1u);
            rope_head(row, p.heads + value * p.kv_heads + tile.kv_head, 1u + value, slot, 2u, invocation);
        }
        workgroupBarrier();
        let key = kv_key(kv_sequence(row), tile.kv_head, kv_position(row));
        rope_stored = 0u;
        kv_store_head(key, invocation);
        rope_stored = 1u;
        kv_store_head(key + kv_value_offset(), invocation);
        // The workgroup reads them back from the cache.
        storageBarrier();
        workgroupBarrier();
    }
    for (var base = 0u; base < 8u; base += ROPE_GROUPS) {
        let query = base + group;
        rope_head(row, tile.kv_head * p.q_per_kv + min(query, p.q_per_kv - 1u), 0u, query, p.q_per_kv, invocation);
    }
    workgroupBarrier();
}
