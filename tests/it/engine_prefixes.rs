//! Sequences with a common beginning: what is shared is not computed again, and what they say is the same.

use crate::common::{
    device::shared_gpu,
    engines::{bits, engine, greedy, options, prompt, software, tiny},
};
use ferrum_wgpu::{
    Device, Engine, EngineOptions, Model, Session,
    low_level::{
        engine::{KvLayout, PassKind},
        model::KernelSelection,
    },
};

const MODEL: &str = "moe-q4_k-q6_k";
const BLOCK: u32 = 32;
const CONTEXT: u32 = 320;

/// A reply of the likeliest tokens, and how many of the prompt's were found in the cache.
async fn reply(session: &mut Session, prompt: &[u32], limit: u32) -> (Vec<u32>, u32) {
    let mut reply = session.generate(prompt, &greedy(limit)).expect("a request");
    let mut tokens = Vec::new();
    while let Some(token) = reply.next().await.expect("a step") {
        tokens.push(token);
    }
    (tokens, reply.cached())
}

/// Rows of prompts that were computed.
async fn prompt_rows(engine: &Engine) -> u64 {
    engine.profile().await.phases.get(&PassKind::Prefill).map_or(0, |total| total.rows)
}

fn sharing(kernels: KernelSelection) -> EngineOptions {
    options(4, CONTEXT, kernels).profile(true)
}

/// The same without prefixes.
async fn alone(model: &Model, kernels: KernelSelection, prompt: &[u32], limit: u32) -> Vec<u32> {
    let options = options(1, CONTEXT, kernels).prefix_sharing(false);
    reply(&mut engine(model, &options).await.session(), prompt, limit).await.0
}

#[test]
fn a_second_request_computes_only_what_is_not_shared() {
    pollster::block_on(async {
        let device = shared_gpu();
        let kernels = software(&device);
        let model = tiny(&device, MODEL).await;
        let engine = engine(&model, &sharing(kernels)).await;
        let shared = prompt(&model, 200, 0);
        let with = |rest: &[u32]| [&shared, rest].concat();
        let first = with(&prompt(&model, 20, 1));
        let (said, cached) = reply(&mut engine.session(), &first, 6).await;
        assert_eq!((&said, cached), (&alone(&model, kernels, &first, 6).await, 0));
        assert_eq!(prompt_rows(&engine).await, 220);
        // Six whole blocks of the 200 tokens; all but the last token of one that is there; none for one that begins otherwise.
        let mut otherwise = with(&prompt(&model, 9, 2));
        otherwise[3] = (otherwise[3] + 1) % model.config().vocab;
        let second = with(&prompt(&model, 9, 2));
        for (i, (prompt, found)) in [
            (second.clone(), 192),
            (first.clone(), 192),
            (shared[..192].to_vec(), 160),
            (shared[..193].to_vec(), 192),
            (shared[..20].to_vec(), 0),
            (otherwise, 0),
        ]
        .into_iter()
        .enumerate()
        {
            let before = prompt_rows(&engine).await;
            let (said, cached) = reply(&mut engine.session(), &prompt, 5).await;
            assert_eq!(cached, found, "prompt {i}");
            assert_eq!(prompt_rows(&engine).await - before, prompt.len() as u64 - u64::from(found), "prompt {i}");
            assert_eq!(said, alone(&model, kernels, &prompt, 5).await, "prompt {i}");
        }
        // While another holds them, and from a prompt whose logits are wanted.
        let mut session = engine.session();
        let before = prompt_rows(&engine).await;
        let logits = session.forward(&second).await.expect("a prompt");
        assert_eq!(prompt_rows(&engine).await - before, 209 - 192);
        let mut other = engine.session();
        assert_eq!(bits(&other.forward(&second).await.expect("a prompt")), bits(&logits));
        let unshared = options(1, CONTEXT, kernels).prefix_sharing(false);
        let mut unshared = crate::common::engines::engine(&model, &unshared).await.session();
        assert_eq!(bits(&unshared.forward(&second).await.expect("a prompt")), bits(&logits));
        // All rows are wanted: none of them is taken from the cache.
        let before = prompt_rows(&engine).await;
        let mut rows = 0;
        engine.session().forward_each(&second, |_| rows += 1).await.expect("a prompt");
        assert_eq!((rows, prompt_rows(&engine).await - before), (209, 209));
    });
}

#[test]
fn requests_with_a_shared_prefix_run_together() {
    pollster::block_on(async {
        let device = shared_gpu();
        let model = tiny(&device, MODEL).await;
        let engine = engine(&model, &sharing(KernelSelection::GPU)).await;
        let prompts: Vec<_> =
            (0..4).map(|i| [prompt(&model, 130, 0), prompt(&model, 5 + i, 7 + u64::from(i))].concat()).collect();
        // The first one computes what the others share.
        let (said, _) = reply(&mut engine.session(), &prompts[0], 8).await;
        let mut sessions: Vec<_> = prompts.iter().map(|_| engine.session()).collect();
        let running = sessions.iter_mut().zip(&prompts);
        let mut running: Vec<_> =
            running.map(|(s, prompt)| s.generate(prompt, &greedy(8)).expect("a request")).collect();
        for (i, (reply, prompt)) in running.iter_mut().zip(&prompts).enumerate() {
            let mut tokens = Vec::new();
            while let Some(token) = reply.next().await.expect("a step") {
                tokens.push(token);
            }
            assert_eq!(
                (tokens, reply.cached()),
                (alone(&model, KernelSelection::GPU, prompt, 8).await, 128),
                "sequence {i}"
            );
        }
        assert_eq!(said, alone(&model, KernelSelection::GPU, &prompts[0], 8).await);
        drop(running);
        drop(sessions);
        let blocks = engine.blocks();
        assert_eq!(blocks.free, blocks.total);
    });
}

/// Whether a conversation finds the blocks of the reply before.
async fn sampled_blocks_shared(model: &Model, options: &EngineOptions) -> u32 {
    let engine = engine(model, options).await;
    let question = prompt(model, 40, 0);
    let (answer, _) = reply(&mut engine.session(), &question, 60).await;
    let next = [&question[..], &answer, &prompt(model, 7, 1)].concat();
    let (said, cached) = reply(&mut engine.session(), &next, 4).await;
    if !options.share_decode_blocks {
        assert_eq!(said, alone(model, options.plan.kernels.expect("kernels"), &next, 4).await);
    }
    cached
}

#[test]
fn sampled_blocks_are_shared_if_prompts_keep_their_order() {
    pollster::block_on(async {
        let device = shared_gpu();
        let model = tiny(&device, MODEL).await;
        // 40 tokens of a prompt fill one block; with 60 sampled ones, the last of which is not computed, three.
        assert_eq!(sampled_blocks_shared(&model, &sharing(software(&device))).await, 96);
        assert_eq!(sampled_blocks_shared(&model, &sharing(KernelSelection::GPU)).await, BLOCK);
        let crossing = sharing(KernelSelection::GPU).share_decode_blocks(true);
        assert_eq!(sampled_blocks_shared(&model, &crossing).await, 96);
        let off = sharing(software(&device)).prefix_sharing(false);
        assert_eq!(sampled_blocks_shared(&model, &off).await, 0);
    });
}

#[test]
fn both_sessions_of_a_fork_continue() {
    pollster::block_on(async {
        let devices = [(shared_gpu(), MODEL), (Device::cpu(), "moe-f32")];
        for (device, name) in &devices {
            let model = tiny(device, name).await;
            let layouts = [KvLayout::Paged { block: BLOCK }, KvLayout::Paged { block: 7 }, KvLayout::Contiguous];
            for kv_layout in layouts {
                let options = options(3, 100, software(device)).kv_layout(kv_layout);
                let engine = engine(&model, &options).await;
                let first = prompt(&model, 45, 0);
                let (ways, third) = ([prompt(&model, 3, 1), prompt(&model, 4, 2)], prompt(&model, 2, 3));
                let mut session = engine.session();
                let (said, _) = reply(&mut session, &first, 5).await;
                let mut fork = session.fork().expect("an idle session");
                assert_eq!(fork.tokens(), session.tokens());
                let before = session.tokens();
                // Both at once: each writes to its own copy of the block that they share.
                let [mut one, mut other] = [(&mut session, &ways[0]), (&mut fork, &ways[1])]
                    .map(|(session, way)| session.generate(way, &greedy(9)).expect("a request"));
                let mut answers = [Vec::new(), Vec::new()];
                for _ in 0..9 {
                    answers[0].extend(one.next().await.expect("a step"));
                    answers[1].extend(other.next().await.expect("a step"));
                }
                drop((one, other));
                for (session, (way, answer)) in [&session, &fork].into_iter().zip(ways.iter().zip(&answers)) {
                    let context = [&before[..], way].concat();
                    assert_eq!(session.tokens(), [&context[..], answer].concat());
                    assert_eq!(answer, &alone(&model, software(device), &context, 9).await, "{name}, {kv_layout:?}");
                }
                assert_eq!(said, before[45..]);
                // Back to where they parted, and on another way.
                session.truncate(50).expect("an idle session");
                let (again, _) = reply(&mut session, &third, 3).await;
                let context = [&before[..], &third].concat();
                assert_eq!(again, alone(&model, software(device), &context, 3).await, "{name}, {kv_layout:?}");
            }
        }
    });
}
