// Queries as they are given: four elements of head `head`, which is that of pair `pair`.
fn queries_four(head: u32, pair: u32, i: u32) -> vec4<f32> {
    return q[head * (HEAD_DIM / 4u) + i];
}
