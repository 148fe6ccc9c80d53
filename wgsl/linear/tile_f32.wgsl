// Tiles of f32, as they are.
alias TileValue = f32;

fn tile_values(values: vec4<f32>) -> vec4<f32> {
    return values;
}
