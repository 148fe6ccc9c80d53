//! An engine on a browser's event loop: several sequences at once, compared with the same on the kernels' twins.

#[path = "../../../../tests/common/tiny_model.rs"]
#[allow(dead_code, reason = "it serves tests too")]
mod tiny_model;

use ferrum_wgpu::{
    Error,
    engine::{Engine, EngineOptions, GenerateOptions, SamplingOptions},
    gguf::Gguf,
    gpu::{Adapter, Device},
    kernels::KvType,
    model::Model,
};
use futures_util::future::try_join3;
use tiny_model::TinyModel;

/// Tokens that each sequence is given and makes.
const PROMPT: u32 = 21;
const REPLY: u32 = 24;
const BLOCK: u32 = 8;

/// What sequences on the browser's adapter say, and whether it is what they say on the twins.
pub async fn generation() -> Result<(String, bool), Error> {
    let gguf = Gguf::from_bytes(TinyModel::default().to_bytes()?)?;
    let device = Device::new(&Adapter::find(None).await?).await?;
    let (found, cached) = replies(&device, &gguf).await?;
    let (expected, _) = replies(&Device::cpu(), &gguf).await?;
    // Whole blocks, never the prompt's last token.
    let passed = found == expected && cached == (PROMPT - 1) / BLOCK * BLOCK;
    let rows = (PROMPT + REPLY) * found.len() as u32;
    let mut text = format!("generation: {} sequences, {rows} tokens, {cached} of a prompt cached", found.len());
    if found != expected {
        text = format!("{text}\n{found:?}, but on the twins {expected:?}");
    }
    Ok((text, passed))
}

/// The tokens of three sequences at once and of a fourth with the prompt of the first, and how many tokens of that were
/// found in the cache.
async fn replies(device: &Device, gguf: &Gguf) -> Result<(Vec<Vec<u32>>, u32), Error> {
    let model = Model::load(device, gguf, |_, _| ()).await?;
    let engine_options = EngineOptions {
        context: Some(PROMPT + REPLY),
        kv_tokens: Some(4 * (PROMPT + REPLY).next_multiple_of(BLOCK)),
        kv_type: Some(KvType::F32),
        kv_layout: ferrum_wgpu::engine::KvLayout::Paged { block: BLOCK },
        sequences: 3,
        ..EngineOptions::default()
    };
    let engine = Engine::new(&model, &engine_options).await?;
    engine.prepare().await?;
    let sampled = SamplingOptions { repetition_penalty: 1.2, seed: 7, ..SamplingOptions::default() };
    let reply = async |seed: u32, sampling: SamplingOptions| -> Result<_, Error> {
        let prompt: Vec<u32> = (0..PROMPT).map(|i| (seed + 37 * i) % 256).collect();
        let options = GenerateOptions { sampling, max_tokens: Some(REPLY), ..GenerateOptions::default() };
        let mut session = engine.session();
        let mut reply = session.generate(&prompt, &options)?;
        let mut tokens = Vec::new();
        while let Some(token) = reply.next().await? {
            tokens.push(token);
        }
        Ok((tokens, reply.cached()))
    };
    let greedy = SamplingOptions::greedy;
    let (first, second, third) = try_join3(reply(1, greedy()), reply(2, greedy()), reply(3, sampled)).await?;
    let fourth = reply(1, greedy()).await?;
    Ok((vec![first.0, second.0, third.0, fourth.0], fourth.1))
}
