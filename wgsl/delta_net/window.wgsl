// The input of channel `channel` `back` rows before row `row` of the run that begins at row `first`, from the window of slot
// `slot` before the run: zeros if there is no such slot.
fn window_input(row: u32, first: u32, slot: u32, back: u32, channel: u32) -> f32 {
    if row - first >= back {
        return x[(row - back) * p.x_stride + p.x_offset + channel];
    }
    let at = (3u + (row - first) - back) * delta_channels() + channel;
    return select(0.0, windows[min(slot, p.slots - 1u) * 3u * delta_channels() + at], slot < p.slots);
}

fn delta_channels() -> u32 {
    return (2u * p.key_heads + p.value_heads) * p.head_dim;
}
