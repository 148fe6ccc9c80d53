//! Sequences that are computed together: each says what it says alone, to the last bit, and they take no more dispatches.

use std::time::Instant;

use crate::common::{
    device::shared_gpu,
    engines::{bits, demo, engine, greedy, options, prompt, replies, replies_alone, sampled, sampling, software, tiny},
};
use ferrum_wgpu::{
    Device, Engine, EngineOptions, GenerateOptions, Model,
    low_level::{
        engine::{KvLayout, PassKind},
        model::{FeedForward, KernelSelection, PlanOptions},
    },
};

const MODELS: [&str; 3] = ["moe-q4_k-q6_k", "qwen3-q6_k-q5_k", "llama-q4_0-q5_1-freqs"];

/// Lengths of sixteen prompts: at borders of blocks of 7 and 32, and on both sides of 256, where attention goes on by
/// chunks.
const LENGTHS: [u32; 16] = [1, 2, 5, 31, 32, 33, 63, 65, 7, 90, 14, 300, 17, 253, 255, 256];

/// Requests of different lengths.
fn requests(model: &Model, options: impl Fn(usize) -> GenerateOptions) -> Vec<(Vec<u32>, GenerateOptions)> {
    let request = |(i, len): (usize, &u32)| (prompt(model, *len, i as u64), options(i));
    LENGTHS.iter().enumerate().map(request).collect()
}

/// Compares what sixteen sequences say together and alone.
async fn compare(model: &Model, options: &EngineOptions, requests: &[(Vec<u32>, GenerateOptions)], what: &str) {
    let start = Instant::now();
    let together = replies(&engine(model, options).await, requests).await;
    let took = start.elapsed();
    let alone = replies_alone(&engine(model, options).await, requests).await;
    println!("{what}: {took:?} together, {:?} alone", start.elapsed() - took);
    for (i, ((together, alone), (_, asked))) in together.iter().zip(&alone).zip(requests).enumerate() {
        assert_eq!(Some(alone.len() as u32), asked.max_tokens, "{what}: reply {i}");
        assert_eq!(together, alone, "{what}: reply {i} to {} tokens", LENGTHS[i]);
    }
}

/// Sequences end at different times.
fn lengths_of_replies(i: usize) -> u32 {
    3 + i as u32 % 6
}

fn with_blocks(block: u32, kernels: KernelSelection) -> EngineOptions {
    options(16, 310, kernels).kv_layout(KvLayout::Paged { block })
}

#[test]
fn batched_greedy_replies_equal_solo_replies() {
    pollster::block_on(async {
        let device = shared_gpu();
        for (name, block, kernels) in [(MODELS[0], 7, software(&device)), (MODELS[1], 32, KernelSelection::GPU)] {
            let model = tiny(&device, name).await;
            let requests = requests(&model, |i| greedy(lengths_of_replies(i)));
            compare(&model, &with_blocks(block, kernels), &requests, name).await;
        }
    });
}

#[test]
fn batched_sampled_replies_equal_solo_replies() {
    pollster::block_on(async {
        let device = shared_gpu();
        for (name, kernels) in [(MODELS[0], KernelSelection::GPU), (MODELS[2], KernelSelection::SOFTWARE)] {
            let model = tiny(&device, name).await;
            let requests = requests(&model, |i| sampled(lengths_of_replies(i), sampling(i)));
            compare(&model, &with_blocks(32, kernels), &requests, name).await;
        }
    });
}

#[test]
fn demo_model_batched_replies_equal_solo_replies() {
    pollster::block_on(async {
        let device = shared_gpu();
        let model = demo(&device).await;
        let requests: Vec<_> = (0..16u32)
            .map(|i| {
                (
                    prompt(&model, 1 + 3 * i, i.into()),
                    if i % 2 == 0 { greedy(4) } else { sampled(5, sampling(i as usize)) },
                )
            })
            .collect();
        // With the device's own kernels.
        let options = options(16, 64, KernelSelection::GPU).plan(PlanOptions::default());
        let together = replies(&engine(&model, &options).await, &requests).await;
        assert_eq!(together, replies_alone(&engine(&model, &options).await, &requests).await);
    });
}

/// What a session says of a token after a sequence, in rows of its own kind, and of a prompt.
struct Probe {
    sequence: Vec<u32>,
    token: u32,
}

/// Checks logits of decode steps and of prompts, computed with up to 16 other sequences.
async fn check_bits(device: &Device, name: &str, kernels: KernelSelection, limit: u32) {
    let model = tiny(device, name).await;
    let probes = [5, 64, 256].map(|len| Probe { sequence: prompt(&model, len, len.into()), token: 3 });
    // A longer one comes to those that are short, and they to it.
    let lengths = [3u32, 40, 270, 32, 9, 63, 255];
    let context = 900;
    let options = options(limit + probes.len() as u32, context, kernels)
        .prefix_sharing(false)
        .kv_layout(KvLayout::Paged { block: 7 });
    let engine = engine(&model, &options).await;
    let mut probing = Vec::new();
    let mut expected = Vec::new();
    for probe in &probes {
        let mut session = engine.session();
        let prompt = session.forward(&probe.sequence).await.expect("a prompt");
        let next = session.decode(probe.token).await.expect("a step");
        // From run to run.
        session.truncate(probe.sequence.len() as u32).expect("an idle session");
        assert!(bits(&next) == bits(&session.decode(probe.token).await.expect("a step")), "{name}: run to run");
        expected.push([bits(&prompt), bits(&next)]);
        probing.push(session);
    }
    let mut others: Vec<_> = (1..limit).map(|_| engine.session()).collect();
    let mut running = Vec::new();
    for (i, session) in others.iter_mut().enumerate() {
        let prompt = prompt(&model, lengths[i % lengths.len()], 100 + i as u64);
        let mut reply = session.generate(&prompt, &greedy(u32::MAX)).expect("a request");
        reply.next().await.expect("a step").expect("a token");
        running.push(reply);
        for (p, (probe, session)) in probes.iter().zip(&mut probing).enumerate() {
            let with = i + 2;
            session.truncate(probe.sequence.len() as u32).expect("an idle session");
            let next = session.decode(probe.token).await.expect("a step");
            assert!(bits(&next) == expected[p][1], "{name}: probe {p} as one of {with} drawn rows");
            // A long prompt only at first and with many.
            if p == i % probes.len() && (p < 2 || i == 2) {
                let logits = engine.session().forward(&probe.sequence).await.expect("a prompt");
                assert!(
                    bits(&logits) == expected[p][0],
                    "{name}: probe {p} as a prompt beside {} drawn rows",
                    with - 1
                );
            }
        }
    }
    drop(running);
    for (i, (session, len)) in others.iter().zip(lengths.iter().cycle()).enumerate() {
        let (drew, rounds) = (session.len() - len, limit - 1 - i as u32);
        assert!(session.len() < context, "{name}: sequence {i} ended before its time");
        assert!(drew >= probes.len() as u32 * rounds, "{name}: sequence {i} drew {drew} in {rounds} rounds");
    }
}

#[test]
fn logits_do_not_depend_on_the_batch() {
    pollster::block_on(async {
        let device = shared_gpu();
        for (name, kernels, limit) in [
            (MODELS[0], software(&device), 17),
            (MODELS[1], KernelSelection::GPU, 6),
            (MODELS[2], KernelSelection::GPU, 6),
        ] {
            let start = Instant::now();
            check_bits(&device, name, kernels, limit).await;
            println!("{name}: {:?}", start.elapsed());
        }
    });
}

#[test]
fn cpu_kernel_logits_do_not_depend_on_the_batch() {
    pollster::block_on(check_bits(&Device::cpu(), "moe-f32", KernelSelection::GPU, 5));
}

/// Logits of a prompt's tokens and of three after it, the prompt cut into chunks.
async fn cut(model: &Model, kernels: KernelSelection, (len, prefill_rows): (u32, u32)) -> Vec<Vec<u32>> {
    let options = options(2, len + 3, kernels).prefill_rows(prefill_rows).max_logit_rows(prefill_rows);
    let mut session = engine(model, &options).await.session();
    let mut rows = Vec::new();
    session.forward_each(&prompt(model, len, 1), |row| rows.push(bits(row))).await.expect("a prompt");
    for token in 4..7 {
        rows.push(bits(&session.decode(token).await.expect("a step")));
    }
    rows
}

async fn check_cuts(device: &Device, models: &[&str], cuts: &[(u32, &[u32])]) {
    for name in models {
        let model = tiny(device, name).await;
        for kernels in [software(device), KernelSelection::GPU] {
            for &(len, cuts) in cuts {
                let whole = cut(&model, kernels, (len, 128)).await;
                for &rows in cuts {
                    assert!(
                        cut(&model, kernels, (len, rows)).await == whole,
                        "{name}: {len} tokens, {rows} at a time, {kernels:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn logits_do_not_depend_on_prompt_chunks() {
    pollster::block_on(async {
        let device = shared_gpu();
        check_cuts(&device, &MODELS, &[(37, &[1, 5])]).await;
        check_cuts(&device, &MODELS[..1], &[(130, &[5])]).await;
        check_cuts(&Device::cpu(), &["moe-f32"], &[(23, &[1, 5])]).await;
    });
}

/// Counts the dispatches of a decode pass for 1 to `limit` sequences; the first context has `len` tokens.
async fn dispatches(engine: &Engine, model: &Model, len: u32, limit: u32) -> Vec<usize> {
    let rows = async || {
        let profile = engine.profile().await;
        let phase = |phase| profile.phases.get(&phase).map_or((0, 0), |total| (total.passes, total.rows));
        let [one, more] = [PassKind::Decode, PassKind::BatchedDecode].map(phase);
        (one.0 + more.0, one.1 + more.1)
    };
    let mut sessions: Vec<_> = (0..limit).map(|_| engine.session()).collect();
    let mut running = Vec::new();
    let mut counts = Vec::new();
    for (i, session) in (1..).zip(&mut sessions) {
        let prompt = prompt(model, if i == 1 { len } else { 3 }, i);
        let mut reply = session.generate(&prompt, &greedy(u32::MAX)).expect("a request");
        reply.next().await.expect("a step").expect("a token");
        let before = rows().await;
        reply.next().await.expect("a step").expect("a token");
        reply.next().await.expect("a step").expect("a token");
        running.push(reply);
        let after = rows().await;
        assert!(after.0 > before.0 && after.1 - before.1 == i * (after.0 - before.0), "{i} rows: {before:?} {after:?}");
        counts.push(engine.decode_dispatches().await);
    }
    counts
}

#[test]
fn dispatches_do_not_depend_on_the_number_of_sampled_sequences() {
    pollster::block_on(async {
        // The same plans are recorded for any device.
        let device = Device::cpu();
        for (name, limit) in [(MODELS[0], 17), (MODELS[1], 5)] {
            let model = tiny(&device, name).await;
            let config = model.config();
            // From so many rows on, experts have buckets.
            let tier = |rows: u32| match config.feed_forward {
                FeedForward::Experts { count, used, .. } => {
                    rows * used >= KernelSelection::GPU.expert_batched_from * count
                }
                FeedForward::Dense { .. } => true,
            };
            // A profile tells how many rows there were.
            let options = options(limit, 460, KernelSelection::GPU).profile(true);
            let engine = engine(&model, &options).await;
            let short = dispatches(&engine, &model, 3, limit).await;
            let long = dispatches(&engine, &model, 257, limit).await;
            println!("{name}: {short:?}, {long:?}");
            for (i, rows) in (1..=limit).enumerate() {
                let first = (2..=limit).find(|first| tier(*first) == tier(rows)).expect("a tier") as usize - 1;
                if rows > 1 {
                    assert_eq!((short[i], long[i]), (short[first], long[first]), "{name}: {rows} rows");
                }
                assert_eq!(long[i], short[i] + config.layers as usize, "{name}: attention by chunks is one more");
            }
        }
    });
}
