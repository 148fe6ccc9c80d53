//! Layers with a sliding window keep the last blocks of a sequence only.

use crate::common::{device::shared_gpu, tiny_model};
use ferrum_wgpu::{
    Device, Engine, EngineOptions, GenerateOptions, Gguf, KvType, Model, SamplingOptions, low_level::engine::KvLayout,
};

/// The tokens of a block.
const BLOCK: u32 = 8;
/// The models have a window of one block on one of their two layers.
const MODELS: [&str; 2] = ["gemma3", "gpt-oss"];
/// Blocks of the pool of windows: two for the last eight positions and two to go back, three since nothing need begin with a
/// block, two for the rows of a step, one for a prefix.
const WINDOW_BLOCKS: u32 = 8;

fn file(name: &str) -> Gguf {
    let models = tiny_model::architecture_models();
    let (_, mut tiny) = models.into_iter().find(|(found, _)| *found == name).expect("a model");
    tiny.context = 512;
    Gguf::from_bytes(tiny.to_bytes().expect("a GGUF")).expect("a GGUF")
}

fn options(layout: KvLayout) -> EngineOptions {
    EngineOptions::default().kv_type(KvType::F32).context(512).prefill_rows(2 * BLOCK).kv_layout(layout)
}

fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (seed * 7919 + i * i * 31 + i * 17) % 250).collect()
}

/// Returns the tokens of a conversation of some turns.
async fn conversation(engine: &Engine) -> Vec<u32> {
    let greedy = GenerateOptions::default().sampling(SamplingOptions::greedy()).max_tokens(60);
    let mut session = engine.session();
    for (turn, len) in (0..).zip([100, 30, 50]) {
        let mut reply = session.generate(&prompt(turn, len), &greedy).expect("a request");
        while reply.next().await.expect("a step").is_some() {}
    }
    session.tokens()
}

/// A long conversation has the tokens that it has in a cache of all positions.
#[test]
fn windows_keep_few_blocks_and_change_no_token() {
    pollster::block_on(async {
        for (name, device) in MODELS.into_iter().zip([shared_gpu(), Device::cpu()]) {
            let gguf = file(name);
            let model = Model::load(&device, &gguf, |_, _| ()).await.expect("a model");
            let paged = Engine::new(&model, &options(KvLayout::Paged { block: BLOCK })).await.expect("an engine");
            let whole = Engine::new(&model, &options(KvLayout::Contiguous)).await.expect("an engine");
            let tokens = conversation(&paged).await;
            assert!(tokens.len() as u32 > 4 * WINDOW_BLOCKS * BLOCK, "the pool of windows cannot hold it");
            assert_eq!(tokens, conversation(&whole).await, "{name}");
            // What is shortened by more than the slack is computed again.
            let mut session = paged.session();
            let logits = session.forward(&tokens).await.expect("logits");
            session.truncate(200).expect("an idle session");
            assert_eq!(session.forward(&tokens[200..]).await.expect("logits"), logits, "{name}");
        }
    });
}

/// A prefix is found behind a window, once the conversation that had it is over.
#[test]
fn prefixes_are_found_behind_a_window() {
    pollster::block_on(async {
        let model = Model::load(&Device::cpu(), &file("gemma3"), |_, _| ()).await.expect("a model");
        let engine = Engine::new(&model, &options(KvLayout::Paged { block: BLOCK })).await.expect("an engine");
        let tokens = prompt(1, 10 * BLOCK + 3);
        let first = engine.session().forward(&tokens).await.expect("logits");
        let mut session = engine.session();
        let mut reply = session.generate(&tokens, &GenerateOptions::default().max_tokens(1)).expect("a request");
        while reply.next().await.expect("a step").is_some() {}
        assert_eq!(reply.cached(), 10 * BLOCK);
        drop(reply);
        assert_eq!(engine.session().forward(&tokens).await.expect("logits"), first);
    });
}

/// More sequences than run at once hold their windows: those that are idle are computed again.
#[test]
fn idle_sessions_make_room() {
    pollster::block_on(async {
        let model = Model::load(&Device::cpu(), &file("gpt-oss"), |_, _| ()).await.expect("a model");
        let engine = Engine::new(&model, &options(KvLayout::Paged { block: BLOCK })).await.expect("an engine");
        let alone = Engine::new(&model, &options(KvLayout::Contiguous)).await.expect("an engine");
        let mut sessions: Vec<_> = (0..6).map(|_| engine.session()).collect();
        for turn in 0..2 {
            for (i, session) in (0..).zip(&mut sessions) {
                session.forward(&prompt(10 * turn + i, 20)).await.expect("logits");
            }
        }
        for mut session in sessions {
            let mut tokens = session.tokens();
            tokens.push(7);
            let expected = alone.session().forward(&tokens).await.expect("logits");
            assert_eq!(session.forward(&[7]).await.expect("logits"), expected);
        }
    });
}

#[test]
fn memory_counts_the_blocks_of_each_group() {
    for name in MODELS {
        let gguf = file(name);
        let plan = |layout| Engine::memory(&gguf, &options(layout), KvType::F32).expect("a plan");
        let (paged, whole) = (plan(KvLayout::Paged { block: BLOCK }), plan(KvLayout::Contiguous));
        let [kv_heads, head_dim] = ["attention.head_count_kv", "attention.key_length"]
            .map(|key| gguf.metadata().u32(&format!("{name}.{key}")).expect("a number").expect("a key"));
        let token_bytes = u64::from(2 * kv_heads * head_dim * 4);
        assert_eq!(paged.kv_windows, u64::from(WINDOW_BLOCKS * BLOCK) * token_bytes);
        let freed = u64::from(512 - WINDOW_BLOCKS * BLOCK) * token_bytes;
        // A block table has an entry of four bytes for each block.
        let tables = 4 * (2 * 512 / u64::from(BLOCK) - 1);
        assert_eq!((whole.kv_windows, whole.kv - freed + tables), (0, paged.kv));
    }
}
