//! Prompt lookup decoding: the tokens are those of plain decoding.

use crate::common::{
    device::shared_gpu,
    engines::{greedy, replies, replies_alone, sampled, sampling},
    micro_model::{gguf, load, micro_model, options},
    tiny_model::{Arch, TinyModel, architecture_models, hybrid_models},
};
use ferrum_wgpu::{
    Constraint, Device, Engine, EngineOptions, GenerateOptions, LookupStats, Model, SamplingOptions,
    low_level::engine::KvLayout,
};

/// A prompt that repeats itself, so that there are drafts.
fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (seed * 31 + i % 11 * (i % 11) * 7) % 250).collect()
}

/// Returns a model that often says the last token again, so that drafts are accepted.
fn repeating(model: TinyModel) -> TinyModel {
    TinyModel { tied: true, ..model }
}

fn hybrid(name: &str) -> TinyModel {
    let (_, model) = hybrid_models().into_iter().find(|(found, _)| *found == name).expect("a hybrid");
    TinyModel { hidden: 256, ..repeating(model) }
}

/// Requests of all kinds: greedy, sampled at low and high temperature, and with penalties, which have no drafts.
fn requests(len: u32) -> Vec<(Vec<u32>, GenerateOptions)> {
    let cold = SamplingOptions::default().temperature(0.2);
    let kinds = [
        SamplingOptions::greedy(),
        cold.clone().seed(4),
        sampling(4),
        SamplingOptions::greedy(),
        cold.top_k(0).seed(9),
        sampling(2),
        sampling(7),
    ];
    (0..).zip(kinds).map(|(seed, kind)| (prompt(seed, len + seed), sampled(40, kind))).collect()
}

async fn engine(model: &Model, options: EngineOptions) -> Engine {
    Engine::new(model, &options).await.expect("an engine")
}

/// Returns the counts of drafts of an engine whose replies are those of one without.
async fn check(model: &Model, options: EngineOptions, len: u32, lookup: u32) -> LookupStats {
    let requests = requests(len);
    let plain = engine(model, options.clone()).await;
    let expected = replies(&plain, &requests).await;
    assert_eq!(plain.lookup(), LookupStats::default());
    let drafts = engine(model, options.lookup(lookup)).await;
    drafts.warm_up().await.expect("kernels");
    assert_eq!(replies(&drafts, &requests).await, expected, "together");
    assert_eq!(replies_alone(&drafts, &requests).await, expected, "alone");
    assert_eq!((drafts.requests(), drafts.blocks().free), (0, drafts.blocks().total));
    let stats = drafts.lookup();
    println!("{stats:?}, {:.2} tokens a step", stats.tokens_per_step());
    assert!(stats.accepted > 2 && stats.drafted > stats.accepted && stats.steps > 20, "{stats:?}");
    stats
}

#[test]
fn drafts_change_no_token() {
    pollster::block_on(async {
        for (arch, device) in
            [(Arch::Llama, shared_gpu()), (Arch::Qwen3Moe, shared_gpu()), (Arch::Qwen3Moe, Device::cpu())]
        {
            let model = load(&device, &gguf(&TinyModel { context: 512, ..repeating(micro_model(arch)) })).await;
            // The context is longer than a chunk of keys: attention is split.
            check(&model, options(3, 384).kv_tokens(8192), 250, 5).await;
        }
    });
}

/// Windows of eight positions, about as many as a step's drafts and what they may take back.
#[test]
fn windows_keep_what_rejected_drafts_take_back() {
    pollster::block_on(async {
        for (name, block) in [("gpt-oss", 8), ("gpt-oss", 32), ("gemma3", 8)] {
            let (_, model) = architecture_models().into_iter().find(|(found, _)| *found == name).expect("a model");
            let model = TinyModel { context: 512, tied: name == "gpt-oss", ..model };
            let model = load(&Device::cpu(), &gguf(&model)).await;
            let options = options(3, 384).kv_tokens(8192).kv_layout(KvLayout::Paged { block });
            check(&model, options, 100, 5).await;
        }
    });
}

#[test]
fn states_go_on_from_the_last_accepted_token() {
    pollster::block_on(async {
        for (name, device) in [("qwen35moe", shared_gpu()), ("qwen35", Device::cpu()), ("qwen3next", Device::cpu())] {
            let model = load(&device, &gguf(&hybrid(name))).await;
            check(&model, options(3, 256).kv_tokens(8192).snapshot_spacing(32), 40, 4).await;
        }
    });
}

/// Sessions go on after replies with drafts, also cancelled ones and without new tokens, as after plain ones.
#[test]
fn sessions_go_on_after_drafts() {
    pollster::block_on(async {
        for tiny in [hybrid("qwen35"), repeating(micro_model(Arch::Qwen3))] {
            let model = load(&Device::cpu(), &gguf(&tiny)).await;
            let mut all = Vec::new();
            for (lookup, host_sampling) in [(0, false), (6, false), (3, true)] {
                let options = options(1, 256).lookup(lookup).host_sampling(host_sampling).snapshot_spacing(32);
                let engine = engine(&model, options).await;
                let mut session = engine.session();
                for (count, prompt) in [(9, prompt(1, 30)), (7, Vec::new()), (20, prompt(2, 12))] {
                    let mut reply = session.generate(&prompt, &greedy(count)).expect("a request");
                    while reply.next().await.expect("a step").is_some() {}
                }
                // Cancelled within the tokens of a step.
                let mut reply = session.generate(&prompt(3, 9), &greedy(50)).expect("a request");
                for _ in 0..3 {
                    reply.next().await.expect("a step");
                }
                let mut session = reply.into_session();
                session.truncate(84).expect("an idle session");
                let mut fork = session.fork().expect("an idle session");
                for session in [&mut session, &mut fork] {
                    let mut reply = session.generate(&prompt(4, 9), &greedy(60)).expect("a request");
                    while reply.next().await.expect("a step").is_some() {}
                }
                assert_eq!(engine.lookup().accepted > 0, lookup > 0);
                all.push([session.tokens(), fork.tokens()]);
            }
            assert!(all.iter().all(|tokens| *tokens == all[0]));
        }
    });
}

/// Allows even tokens.
struct Even;

impl Constraint for Even {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        mask.fill(0x5555_5555);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        if token.is_multiple_of(2) { Ok(()) } else { Err("odd".to_owned()) }
    }
}

#[test]
fn constrained_replies_have_no_drafts() {
    pollster::block_on(async {
        let model = load(&Device::cpu(), &gguf(&repeating(micro_model(Arch::Llama)))).await;
        let mut all = Vec::new();
        for lookup in [0, 4] {
            let engine = engine(&model, options(2, 128).lookup(lookup)).await;
            let [mut constrained, mut free] = [engine.session(), engine.session()];
            let mut constrained =
                constrained.generate_constrained(&prompt(1, 30), &greedy(30), Box::new(Even)).expect("a request");
            let mut free = free.generate(&prompt(2, 30), &greedy(30)).expect("a request");
            let mut tokens = Vec::new();
            while let (Some(one), Some(other)) =
                (constrained.next().await.expect("a step"), free.next().await.expect("a step"))
            {
                assert_eq!(one % 2, 0);
                tokens.push([one, other]);
            }
            assert_eq!(tokens.len(), 30);
            all.push(tokens);
        }
        assert_eq!(all[0], all[1]);
    });
}

#[test]
fn too_many_drafts_are_refused() {
    pollster::block_on(async {
        let model = load(&Device::cpu(), &gguf(&repeating(micro_model(Arch::Llama)))).await;
        let error = Engine::new(&model, &options(1, 64).lookup(65)).await.expect_err("it is refused");
        assert!(error.to_string().contains("lookup"), "{error}");
    });
}

/// Draft tokens are counted for each reply, and told in responses.
#[cfg(feature = "api")]
#[test]
fn responses_tell_of_drafts() {
    use ferrum_wgpu::{Gguf, api};
    pollster::block_on(async {
        let (device, file) = (Device::cpu(), Gguf::from_bytes(crate::common::engines::demo_bytes()).expect("a GGUF"));
        let model = Model::load(&device, &file, |_, _| ()).await.expect("a model");
        let mut texts = Vec::new();
        for lookup in [0, 4] {
            let engine = engine(&model, options(2, 256).kv_tokens(1024).lookup(lookup)).await;
            let service = api::Service::new(&engine, &file, "demo").expect("a service");
            let ids: Vec<u32> = (0..60).map(|i| 20 + i % 6).collect();
            let request = serde_json::json!({
                "prompt": ids, "max_tokens": 30, "temperature": 0, "ignore_eos": true, "n": 2,
            });
            let response = service.completion(request, &api::RequestContext::default()).expect("a request");
            let whole = response.whole().await.expect("a reply");
            let (timings, stats) = (&whole["timings"], engine.lookup());
            match lookup {
                0 => assert!(timings.get("draft_n").is_none(), "{timings}"),
                _ => assert_eq!(
                    [&timings["draft_n"], &timings["draft_n_accepted"]].map(|n| n.as_u64()),
                    [stats.drafted, stats.accepted].map(Some)
                ),
            }
            assert_eq!(stats.drafted > 0, lookup > 0, "{stats:?}");
            texts.push(whole["choices"].clone());
            let mut session = engine.session();
            let mut reply = session.generate(&ids, &greedy(9)).expect("a request");
            while reply.next().await.expect("a step").is_some() {}
            assert_eq!(reply.lookup(), engine.lookup().since(&stats));
        }
        assert_eq!(texts[0], texts[1]);
    });
}
