// No attention sinks: sums begin with nothing.
const SINK_WEIGHT = 0.0;

fn sink_logit(head: u32) -> f32 {
    return LOWEST;
}

fn sink_logits(heads: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(LOWEST);
}
