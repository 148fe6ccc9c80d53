// Attention sinks (Xiao et al. 2023; gpt-oss): a logit of each query head takes part in its softmax and adds no value.
const SINK_WEIGHT = 1.0;

fn sink_logit(head: u32) -> f32 {
    return sinks[head % p.heads];
}

fn sink_logits(heads: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(sink_logit(heads.x), sink_logit(heads.y), sink_logit(heads.z), sink_logit(heads.w));
}
