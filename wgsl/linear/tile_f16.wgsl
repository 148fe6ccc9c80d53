// Tiles of halves, the largest half being the limit: an infinity would turn into a NaN when it is multiplied by zero.
alias TileValue = f16;

fn tile_values(values: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(clamp(values, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
}
