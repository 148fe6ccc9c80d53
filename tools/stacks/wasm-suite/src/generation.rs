//! An engine on a browser's event loop: several concurrent sequences, compared with the same on CPU kernels.

#[path = "../../../../tests/it/common/tiny_model.rs"]
#[allow(dead_code, reason = "shared with tests")]
mod tiny_model;

use ferrum_wgpu::{
    Adapter, ChatTemplate, Device, Engine, EngineOptions, Error, GenerateOptions, Gguf, KvType, Message, Model,
    RenderOptions, SamplingOptions, Tokenizer, low_level::engine::KvLayout,
};
use futures_util::future::try_join3;
use tiny_model::TinyModel;

/// The context and the reply length of each sequence, in tokens.
const CONTEXT: u32 = 96;
const REPLY: u32 = 24;
const BLOCK: u32 = 8;

/// Generates on the browser's adapter and on CPU kernels. Returns a summary, and whether the tokens agree.
pub async fn generation() -> Result<(String, bool), Error> {
    let gguf = Gguf::from_bytes(TinyModel::default().to_bytes()?)?;
    let device = Device::new(&Adapter::find(None).await?).await?;
    let prompts = prompts(&gguf)?;
    let (found, cached) = replies(&device, &gguf, &prompts).await?;
    let (expected, _) = replies(&Device::cpu(), &gguf, &prompts).await?;
    let first = prompts[0].len() as u32;
    // Whole blocks, without the prompt's last token.
    let passed = found == expected && cached == (first - 1) / BLOCK * BLOCK;
    let mut text = format!("generation: {} replies of {REPLY} tokens, {cached} of {first} tokens cached", found.len());
    if found != expected {
        text = format!("{text}\n{found:?}, but on the CPU kernels {expected:?}");
    }
    Ok((text, passed))
}

/// Returns a message rendered by the file's template, and two prompts of arbitrary tokens.
fn prompts(gguf: &Gguf) -> Result<[Vec<u32>; 3], Error> {
    let template = ChatTemplate::from_metadata(gguf.metadata())?;
    let rendered = template.render(&[Message::user("What about a page?")], &RenderOptions::default())?;
    let message = Tokenizer::from_gguf(gguf)?.encode_prompt(&rendered)?;
    let numbers = |seed: u32, count: u32| (0..count).map(|i| (seed + 37 * i) % 256).collect();
    Ok([message, numbers(2, 21), numbers(3, 5)])
}

/// Returns the replies of three concurrent sequences and of a fourth with the first's prompt, and the number of cached
/// tokens that the fourth reused.
async fn replies(device: &Device, gguf: &Gguf, prompts: &[Vec<u32>; 3]) -> Result<(Vec<Vec<u32>>, u32), Error> {
    let model = Model::load(device, gguf, |_, _| ()).await?;
    let engine_options = EngineOptions::default()
        .context(CONTEXT)
        .kv_tokens(4 * CONTEXT)
        .kv_type(KvType::F32)
        .kv_layout(KvLayout::Paged { block: BLOCK })
        .sequences(3);
    let engine = Engine::new(&model, &engine_options).await?;
    engine.warm_up().await?;
    let sampled = SamplingOptions::default().repetition_penalty(1.2).seed(7);
    let reply = async |prompt: &[u32], sampling: SamplingOptions| -> Result<_, Error> {
        let options = GenerateOptions::default().sampling(sampling).max_tokens(REPLY);
        let mut session = engine.session();
        let mut reply = session.generate(prompt, &options)?;
        let mut tokens = Vec::new();
        while let Some(token) = reply.next().await? {
            tokens.push(token);
        }
        Ok((tokens, reply.cached()))
    };
    let greedy = SamplingOptions::greedy;
    let [one, two, three] = prompts;
    let (first, second, third) = try_join3(reply(one, greedy()), reply(two, greedy()), reply(three, sampled)).await?;
    let fourth = reply(one, greedy()).await?;
    Ok((vec![first.0, second.0, third.0, fourth.0], fourth.1))
}
