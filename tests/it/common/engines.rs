//! Helpers that load models, build engines and collect replies.

use ferrum_wgpu::{
    Adapter, Device, Engine, EngineOptions, GenerateOptions, Gguf, KvType, Model, SamplingOptions,
    low_level::{
        model::{KernelSelection, PlanOptions},
        quant::Rng,
    },
};

/// Opens a device on the first adapter.
pub async fn gpu() -> Device {
    let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
    Device::new(&adapter).await.expect("a device")
}

/// Loads the tiny model `name`.
pub async fn tiny(device: &Device, name: &str) -> Model {
    let models = super::tiny_model::tiny_models();
    let (_, tiny) = models.iter().find(|(known, _)| *known == name).expect("a tiny model");
    load(device, tiny.to_bytes().expect("a GGUF")).await
}

/// Loads the demo model.
pub async fn demo(device: &Device) -> Model {
    load(device, demo_bytes()).await
}

/// Reads the demo model's file.
pub fn demo_bytes() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-q4_k_m.gguf");
    std::fs::read(path).expect("the demo model")
}

async fn load(device: &Device, bytes: Vec<u8>) -> Model {
    let gguf = Gguf::from_bytes(bytes).expect("a GGUF");
    Model::load(device, &gguf, |_, _| ()).await.expect("a model")
}

/// Returns options for `sequences` concurrent sequences of up to `context` tokens, with an f32 KV cache.
pub fn options(sequences: u32, context: u32, kernels: KernelSelection) -> EngineOptions {
    EngineOptions::default()
        .context(context)
        .kv_tokens(sequences * (context + 32))
        .kv_type(KvType::F32)
        .sequences(sequences)
        .plan(PlanOptions { kernels: Some(kernels), ..PlanOptions::default() })
}

/// Returns the kernels of a software driver with the subgroups of `device`.
pub fn software(device: &Device) -> KernelSelection {
    if device.caps().software_subgroup_8 { KernelSelection::SOFTWARE_SUBGROUPS } else { KernelSelection::SOFTWARE }
}

/// Builds an engine.
pub async fn engine(model: &Model, options: &EngineOptions) -> Engine {
    Engine::new(model, options).await.expect("an engine")
}

/// Returns a prompt of `len` random tokens.
pub fn prompt(model: &Model, len: u32, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(1000 + seed);
    (0..len).map(|_| rng.below(model.config().vocab)).collect()
}

/// Returns a greedy request for `max_tokens` tokens.
pub fn greedy(max_tokens: u32) -> GenerateOptions {
    sampled(max_tokens, SamplingOptions::greedy())
}

/// Returns a request for `max_tokens` tokens sampled by `sampling`.
pub fn sampled(max_tokens: u32, sampling: SamplingOptions) -> GenerateOptions {
    GenerateOptions::default().sampling(sampling).max_tokens(max_tokens)
}

/// Returns one of ten sampling configurations: `kind` modulo 10. The last two sample on the host in any engine.
pub fn sampling(kind: usize) -> SamplingOptions {
    let all = SamplingOptions::default().temperature(1.0).top_k(0).top_p(1.0).seed(kind as u64);
    match kind % 10 {
        0 => SamplingOptions::greedy(),
        1 => SamplingOptions::default().seed(u64::MAX),
        2 => all.top_k(64).min_p(0.05).xtc_probability(0.5).frequency_penalty(0.5),
        3 => all.top_p(0.9),
        4 => SamplingOptions::greedy().repetition_penalty(1.3).presence_penalty(0.5).penalty_last_n(12),
        5 => all.temperature(0.7).top_k(200).top_p(0.97).presence_penalty(1.0),
        6 => all.logit_bias(vec![(7, 4.0), (11, 5.0), (200, -100.0)]),
        7 => all.temperature(1.3),
        8 => all.mirostat(2).mirostat_tau(3.0).presence_penalty(0.5),
        _ => all.mirostat(1).mirostat_tau(3.0).mirostat_eta(0.3),
    }
}

/// Returns the replies to `requests`, which run concurrently.
pub async fn replies(engine: &Engine, requests: &[(Vec<u32>, GenerateOptions)]) -> Vec<Vec<u32>> {
    let mut sessions: Vec<_> = requests.iter().map(|_| engine.session()).collect();
    let mut running = Vec::new();
    for (session, (prompt, options)) in sessions.iter_mut().zip(requests) {
        running.push(session.generate(prompt, options).expect("a request"));
    }
    let mut replies = vec![Vec::new(); requests.len()];
    let mut running_any = true;
    while running_any {
        running_any = false;
        for (reply, tokens) in running.iter_mut().zip(&mut replies) {
            if let Some(token) = reply.next().await.expect("a step") {
                tokens.push(token);
                running_any = true;
            }
        }
    }
    replies
}

/// Returns the replies to `requests`, which run one after the other.
pub async fn replies_alone(engine: &Engine, requests: &[(Vec<u32>, GenerateOptions)]) -> Vec<Vec<u32>> {
    let mut alone = Vec::new();
    for request in requests {
        alone.extend(replies(engine, std::slice::from_ref(request)).await);
    }
    alone
}

/// Returns the bits of `logits`.
pub fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}
