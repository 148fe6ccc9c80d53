// Queries from the buffer q: vec4 i of query head `head`. `query` is its place in the tile.
fn queries_vec4(head: u32, query: u32, i: u32) -> vec4<f32> {
    return q[head * (HEAD_DIM / 4u) + i];
}
