// Shared by the formats with a grid. Their table is at the beginning of `w`: a word a point, of eight nibbles (weights 0 to 3 are
// the low ones of the bytes, 4 to 7 the high ones) or of four bytes. In memory it is common to all invocations and stays in
// their cache; an array of the shader would be copied for each of them.

// Returns point `i` of the table.
fn q_point(i: u32) -> u32 {
    return w[i >> 2u][i & 3u];
}

// Returns points `i` of the table.
fn q_points(i: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(q_point(i.x), q_point(i.y), q_point(i.z), q_point(i.w));
}

// Returns the four bytes of a word.
fn q_split_bytes(word: u32) -> vec4<u32> {
    return (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
}

// Returns 2s + 1 of the scales of both halves.
fn q_odd(scales: vec2<u32>) -> vec2<f32> {
    return vec2<f32>((scales << vec2<u32>(1u)) | vec2<u32>(1u));
}
