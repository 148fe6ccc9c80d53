//! A model small enough to serve thousands of requests in seconds, devices for it, and the replies that each request
//! gets alone.

use std::collections::HashMap;

use ferrum_wgpu::{
    Adapter, Device, Engine, EngineOptions, GenerateOptions, Gguf, KvType, Model, Requirements, SamplingOptions,
    low_level::quant::WeightType, wgpu,
};

use super::tiny_model::{Arch, TinyModel};

/// The size of the vocabulary.
pub const VOCAB: u32 = 264;

/// Returns the model for `arch`, dense or a mixture of experts.
pub fn micro_model(arch: Arch) -> TinyModel {
    TinyModel {
        arch,
        layers: 1,
        hidden: 32,
        heads: 2,
        kv_heads: 1,
        head_dim: 64,
        experts: 4,
        top_k: 2,
        expert_ffn: 32,
        ffn: 32,
        vocab: VOCAB,
        main: WeightType::F32,
        big: WeightType::F32,
        context: 256,
        seed: 3,
        ..TinyModel::default()
    }
}

/// Serialises the model as a GGUF file.
pub fn gguf(model: &TinyModel) -> Gguf {
    Gguf::from_bytes(model.to_bytes().expect("a model")).expect("a GGUF")
}

/// Loads the model on a device.
pub async fn load(device: &Device, gguf: &Gguf) -> Model {
    Model::load(device, gguf, |_, _| ()).await.expect("a model")
}

/// Opens a device on the first adapter.
pub async fn gpu() -> Device {
    let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
    Device::new(&adapter).await.expect("a device")
}

/// Wraps a `wgpu` device that the application owns. Futures that wait for it are pending until the application polls
/// it.
pub async fn borrowed_device() -> Device {
    borrowed_device_without(wgpu::Features::empty()).await
}

/// Wraps an application's `wgpu` device without the features `lacking`.
pub async fn borrowed_device_without(lacking: wgpu::Features) -> Device {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await;
    let adapter = adapter.expect("`make setup` installs a software one");
    let Requirements { features, limits } = Requirements::of(&adapter);
    let descriptor =
        wgpu::DeviceDescriptor { required_limits: limits, required_features: features - lacking, ..Default::default() };
    let (device, queue) = adapter.request_device(&descriptor).await.expect("a device");
    Device::from_wgpu(&adapter, device, queue).expect("a usable device")
}

/// Returns options with an f32 KV cache.
pub fn options(sequences: u32, context: u32) -> EngineOptions {
    EngineOptions::default().context(context).kv_tokens(sequences * context).kv_type(KvType::F32).sequences(sequences)
}

/// A sampling configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplingKind {
    Greedy,
    Sampled,
    Penalised,
}

impl SamplingKind {
    pub fn sampling(self) -> SamplingOptions {
        let sampled = SamplingOptions::default().temperature(1.0).seed(11);
        match self {
            Self::Greedy => SamplingOptions::greedy(),
            Self::Sampled => sampled,
            Self::Penalised => sampled.repetition_penalty(1.2).frequency_penalty(0.3).logit_bias(vec![(5, 2.0)]),
        }
    }

    /// Returns a request for `limit` tokens.
    pub fn tokens(self, limit: u32) -> GenerateOptions {
        GenerateOptions::default().sampling(self.sampling()).max_tokens(limit).stop(Vec::new())
    }
}

/// The replies of a model to single sessions, without prefix sharing, as expectations.
pub struct SoloReplies {
    engine: Engine,
    known: HashMap<(Vec<u32>, SamplingKind), Vec<u32>>,
}

impl SoloReplies {
    pub async fn new(model: &Model) -> Self {
        let options = options(1, 256).prefix_sharing(false).pipelined(false);
        Self { engine: Engine::new(model, &options).await.expect("an engine"), known: HashMap::new() }
    }

    /// Returns the first `len` tokens of the reply to `prompt`.
    pub fn reply(&mut self, prompt: &[u32], sampling_kind: SamplingKind, len: usize) -> Vec<u32> {
        let key = (prompt.to_vec(), sampling_kind);
        let known = self.known.entry(key).or_default();
        if known.len() < len {
            let mut session = self.engine.session();
            let mut reply = session.generate(prompt, &sampling_kind.tokens(len as u32)).expect("a request");
            *known = pollster::block_on(async {
                let mut tokens = Vec::new();
                while let Some(token) = reply.next().await.expect("a token") {
                    tokens.push(token);
                }
                tokens
            });
        }
        known[..len].to_vec()
    }
}

/// Collects the tokens of a reply.
pub async fn all(reply: &mut ferrum_wgpu::Reply) -> Result<Vec<u32>, ferrum_wgpu::EngineError> {
    let mut tokens = Vec::new();
    while let Some(token) = reply.next().await? {
        tokens.push(token);
    }
    Ok(tokens)
}
