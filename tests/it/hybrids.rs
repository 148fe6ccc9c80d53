//! Models with gated delta nets: their states as a cache.

use std::time::Duration;

use crate::common::{
    device::shared_gpu,
    tiny_model::{TinyModel, hybrid_models},
};
use ferrum_wgpu::{
    Adapter, Device, Engine, EngineError, EngineOptions, GenerateOptions, Gguf, KvType, Model, SamplingOptions,
    low_level::gpu::Caps,
};

/// Returns the small model of an architecture.
fn tiny(name: &str) -> TinyModel {
    let models = hybrid_models();
    models.into_iter().find(|(found, _)| *found == name).expect("a hybrid").1
}

async fn model(device: &Device, name: &str) -> Model {
    let gguf = Gguf::from_bytes(tiny(name).to_bytes().expect("a GGUF")).expect("a GGUF");
    Model::load(device, &gguf, |_, _| ()).await.expect("a model")
}

fn options() -> EngineOptions {
    EngineOptions::default().kv_type(KvType::F32).context(256).kv_tokens(1024).sequences(3).snapshot_spacing(64)
}

fn prompt(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (seed * 7919 + i * i * 31 + i * 17) % 290).collect()
}

fn greedy(tokens: u32) -> GenerateOptions {
    GenerateOptions::default().sampling(SamplingOptions::greedy()).max_tokens(tokens)
}

/// Returns the reply to `tokens` in a new session, and the number of tokens that were cached.
async fn reply(engine: &Engine, tokens: &[u32], count: u32) -> (Vec<u32>, u32) {
    let mut session = engine.session();
    let mut reply = session.generate(tokens, &greedy(count)).expect("a request");
    let mut found = Vec::new();
    while let Some(token) = reply.next().await.expect("a step") {
        found.push(token);
    }
    (found, reply.cached())
}

#[test]
fn states_beyond_a_binding_are_refused() {
    pollster::block_on(async {
        let adapter = Adapter::find(None).await.expect("an adapter");
        let caps = Caps { max_binding_bytes: 1 << 20, ..Caps::portable() };
        let device = Device::masked(&adapter, &caps).await.expect("a device");
        let model = model(&device, "qwen35").await;
        let fits = Engine::new(&model, &options().state_snapshots(0)).await;
        assert!(fits.is_ok(), "{:?}", fits.err());
        let Err(error) = Engine::new(&model, &options().state_snapshots(100_000)).await else {
            panic!("a binding holds 100,000 states");
        };
        assert!(matches!(error, EngineError::States { needed, most } if u64::from(needed) > most), "{error}");
        assert!(error.to_string().contains("state_snapshots"), "{error}");
    });
}

/// A row's bits depend neither on the pass that computes it nor on the state's way to it.
#[test]
fn chunks_and_snapshots_change_no_bit() {
    pollster::block_on(async {
        for name in ["qwen35", "qwen35moe", "qwen3next"] {
            let model = model(&Device::cpu(), name).await;
            let tokens = prompt(1, 150);
            let mut rows = Vec::new();
            for (prefill_rows, snapshots) in [(200, 0), (1, 0), (7, 2), (64, 8)] {
                let options = options().prefill_rows(prefill_rows).state_snapshots(snapshots);
                let engine = Engine::new(&model, &options).await.expect("an engine");
                rows.push(engine.session().forward(&tokens).await.expect("logits"));
                // Again, from a snapshot.
                let mut again = engine.session();
                rows.push(again.forward(&tokens).await.expect("logits"));
            }
            assert!(rows.iter().all(|row| *row == rows[0]), "{name}");
        }
    });
}

#[test]
fn a_second_turn_computes_what_follows_the_last_snapshot() {
    pollster::block_on(async {
        let model = model(&shared_gpu(), "qwen35moe").await;
        let engine = Engine::new(&model, &options()).await.expect("an engine");
        let fresh = Engine::new(&model, &options().state_snapshots(0).prefix_sharing(false)).await.expect("an engine");
        let mut tokens = prompt(2, 120);
        let (first, cached) = reply(&engine, &tokens, 12).await;
        assert_eq!((cached, &first), (0, &reply(&fresh, &tokens, 12).await.0));
        tokens.extend(first);
        tokens.extend(prompt(3, 10));
        let (second, cached) = reply(&engine, &tokens, 12).await;
        // The last block of the first prompt ends at 96. Where prefill and decode have one order of sums, the reply has a snapshot
        // after 128 tokens.
        assert!([96, 128].contains(&cached), "{cached}");
        assert_eq!(second, reply(&fresh, &tokens, 12).await.0);
        // Another prompt with the same beginning: the snapshot after 64 tokens.
        let mut other = tokens[..70].to_vec();
        other.extend(prompt(5, 30));
        let (third, cached) = reply(&engine, &other, 12).await;
        assert_eq!((cached, third), (64, reply(&fresh, &other, 12).await.0));
    });
}

/// Where others find the blocks of replies, a reply has a snapshot at its last block, which takes the place of the one before.
#[test]
fn the_snapshot_of_a_reply_moves_with_it() {
    pollster::block_on(async {
        let model = model(&Device::cpu(), "qwen35").await;
        for (lookup, snapshots, [cached, used]) in [(0, 3, [160, 3]), (3, 3, [160, 3]), (0, 1, [64, 1])] {
            // On slow machines too, a prompt is a step: one in several has other snapshots.
            let options = options().max_submit(Duration::from_secs(3600));
            let options = options.share_decode_blocks(true).snapshot_spacing(1024).lookup(lookup);
            let engine = Engine::new(&model, &options.state_snapshots(snapshots)).await.expect("an engine");
            let mut tokens = prompt(4, 96);
            // The prompt has one at 64, and with the reply's at 96 it is whole. A reply of 80 tokens fills two blocks more.
            let (first, _) = reply(&engine, &tokens, 80).await;
            assert!(engine.blocks().snapshots <= used, "{:?}", engine.blocks());
            tokens.extend(first);
            tokens.extend(prompt(5, 20));
            let (second, found) = reply(&engine, &tokens, 8).await;
            assert!(found == cached || (lookup > 0 && [96, 128].contains(&found)), "{found} with {lookup} drafts");
            let fresh = Engine::new(&model, &self::options().state_snapshots(0).prefix_sharing(false)).await;
            let fresh = fresh.expect("an engine");
            assert_eq!(second, reply(&fresh, &tokens, 8).await.0);
            // The prompt's own snapshot is still there.
            let (_, found) = reply(&engine, &prompt(4, 96), 1).await;
            assert_eq!(found, 64);
        }
    });
}

/// A conversation in one session goes on from its own state.
#[test]
fn sessions_go_on_in_batches() {
    pollster::block_on(async {
        let model = model(&Device::cpu(), "qwen35").await;
        let engine = Engine::new(&model, &options().sequences(2)).await.expect("an engine");
        let fresh = Engine::new(&model, &options().state_snapshots(0).prefix_sharing(false)).await.expect("an engine");
        let mut sessions: Vec<_> = (0..3).map(|_| engine.session()).collect();
        let mut all = vec![Vec::new(); 3];
        for turn in 0..3 {
            for (i, session) in sessions.iter_mut().enumerate() {
                let tokens = prompt(10 * turn + i as u32, 20 + 9 * i as u32);
                all[i].extend(&tokens);
                let mut reply = session.generate(&tokens, &greedy(5)).expect("a request");
                while let Some(token) = reply.next().await.expect("a step") {
                    all[i].push(token);
                }
            }
        }
        for tokens in &all {
            let (last, before) = (tokens.len() - 5, tokens.len());
            assert_eq!(reply(&fresh, &tokens[..last], 5).await.0, tokens[last..before]);
        }
    });
}

/// With room for a token's experts in each layer, loaded on demand, the tokens are those of the resident model. A shared expert in
/// the same stacks is one of them.
#[test]
fn experts_on_demand_change_no_token() {
    pollster::block_on(async {
        let device = shared_gpu();
        for (name, room) in [("qwen35moe", 3), ("qwen3next", 2)] {
            let mut tokens = Vec::new();
            for slots in [None, Some(room)] {
                let gguf = Gguf::from_bytes(tiny(name).to_bytes().expect("a GGUF")).expect("a GGUF");
                let model = match slots {
                    None => Model::load(&device, &gguf, |_, _| ()).await.expect("a model"),
                    Some(slots) => Model::load_offloaded(&device, &gguf, slots, |_, _| ()).await.expect("a model"),
                };
                let engine = Engine::new(&model, &options().lookup(3)).await.expect("an engine");
                let (first, _) = reply(&engine, &prompt(6, 70), 10).await;
                let (second, cached) = reply(&engine, &[prompt(6, 70), first.clone(), prompt(7, 5)].concat(), 10).await;
                assert_eq!(cached, 64);
                let paged = model.expert_cache().map_or(0, |cache| cache.misses);
                assert_eq!(paged > 0, slots.is_some());
                tokens.push([first, second]);
            }
            assert_eq!(tokens[0], tokens[1], "{name}");
        }
    });
}
