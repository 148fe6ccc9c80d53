// Queries from the buffer q, a slice of QUERY_VEC8S at a time. For each half, elements 8 * i to 8 * i + 7 of the query in
// its slot n are vectors 2 * n and 2 * n + 1 of array i.
var<workgroup> attn_queries: array<array<array<vec4<f32>, 8>, QUERY_VEC8S>, 2>;

fn queries_ready_slice(slice: u32, invocation: u32) {
    // Another invocation may still read the slice before.
    workgroupBarrier();
    for (var n = invocation; n < 16u * QUERY_VEC8S; n += WG) {
        let half = n / (8u * QUERY_VEC8S);
        let slot = n / (2u * QUERY_VEC8S) % 4u;
        let i = n % (2u * QUERY_VEC8S);
        let from_vec4 = min(2u * slice * QUERY_VEC8S + i, HEAD_DIM / 4u - 1u);
        let values = q[attn_head[half][slot] * (HEAD_DIM / 4u) + from_vec4];
        attn_queries[half][i / 2u][2u * slot + i % 2u] = values;
    }
    workgroupBarrier();
}
