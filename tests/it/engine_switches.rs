//! The engine's switches change how something is computed, and not what: the same tokens, and logits within the kernels'
//! bounds, or the same bits where sums keep their order.

use std::time::Duration;

use crate::common::{
    device::shared_gpu,
    engines::{bits, demo, engine, greedy, options, prompt, replies, sampled, sampling, software, tiny},
    golden::{Golden, Tolerance},
    tiny_model::tiny_models,
};
use ferrum_wgpu::{
    Device, EngineOptions, GenerateOptions, Model, SamplingOptions,
    low_level::{
        engine::{KvLayout, Sampler},
        kernels::sample::{draw, penalties},
        model::{ExpertGrids, FeedForward, KernelSelection, PlanOptions, PrefillMatmul},
    },
};

/// What is seen of a model with some options: replies to two prompts at once, and logits of the first's tokens and of a
/// reply to it.
#[derive(Debug, PartialEq)]
struct Seen {
    replies: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
}

impl Seen {
    fn bits(&self) -> Vec<Vec<u32>> {
        self.logits.iter().map(|row| bits(row)).collect()
    }
}

async fn see(model: &Model, golden: &Golden, options: &EngineOptions) -> Seen {
    let engine = engine(model, options).await;
    let other = prompt(model, 9, 9);
    let limit = golden.f32.greedy.len() as u32;
    let replies = replies(&engine, &[(golden.tokens.clone(), greedy(limit)), (other, greedy(limit + 2))]).await;
    let mut session = engine.session();
    let mut logits = Vec::new();
    session.forward_each(&golden.tokens, |row| logits.push(row.to_vec())).await.expect("a prompt");
    for token in &golden.f32.greedy {
        logits.push(session.decode(*token).await.expect("a step"));
    }
    Seen { replies, logits }
}

fn options_for(golden: &Golden, kernels: KernelSelection) -> EngineOptions {
    let context = (golden.tokens.len() + golden.f32.greedy.len() + 16) as u32;
    options(2, context, kernels).max_logit_rows(128)
}

fn planned(options: &EngineOptions, change: impl FnOnce(&mut PlanOptions)) -> EngineOptions {
    let mut options = options.clone();
    change(&mut options.plan);
    options
}

/// The same kernels with grids from the host.
fn direct(kernels: KernelSelection) -> KernelSelection {
    KernelSelection { expert_grids: ExpertGrids::Direct, ..kernels }
}

fn goldens() -> Vec<Golden> {
    Golden::read_all("tiny.json").expect("goldens")
}

/// Switches that leave all sums in their order, so that not a bit may change.
fn exact(base: &EngineOptions) -> Vec<(&'static str, EngineOptions)> {
    let paged = |block| base.clone().kv_layout(KvLayout::Paged { block });
    let kernels = base.plan.kernels.expect("kernels");
    vec![
        ("contiguous", base.clone().kv_layout(KvLayout::Contiguous)),
        ("blocks of 1", paged(1)),
        ("blocks of 7", paged(7)),
        ("direct grids", planned(base, |plan| plan.kernels = Some(direct(kernels)))),
        ("not pipelined", base.clone().pipelined(false)),
        ("host sampling", base.clone().host_sampling(true)),
        ("no sharing of prefixes", base.clone().prefix_sharing(false)),
        ("every dispatch in pieces", base.clone().max_submit(Duration::ZERO)),
        ("profile", base.clone().profile(true)),
        (
            "rows one by one",
            planned(base, |plan| {
                plan.kernels =
                    Some(KernelSelection { batched_from: u32::MAX, expert_batched_from: u32::MAX, ..kernels });
            }),
        ),
        (
            "buckets for all",
            planned(base, |plan| {
                plan.kernels = Some(KernelSelection { batched_from: 0, expert_batched_from: 0, ..kernels });
            }),
        ),
    ]
}

/// Switches that round otherwise. Dense models have no routing.
fn near(device: &Device, model: &Model, base: &EngineOptions) -> Vec<(&'static str, EngineOptions)> {
    let other = match base.plan.kernels.map(|kernels| kernels.prefill) {
        Some(PrefillMatmul::Gemm) => software(device),
        _ => KernelSelection::GPU,
    };
    let mut switches = vec![
        ("unfused", planned(base, |plan| plan.fused = false)),
        ("the other kernels", planned(base, |plan| plan.kernels = Some(other))),
    ];
    if matches!(model.config().feed_forward, FeedForward::Experts { .. }) {
        let all = planned(base, |plan| {
            (plan.fused, plan.host_routing, plan.kernels) = (false, true, plan.kernels.map(direct));
        });
        switches.push(("host routing", planned(base, |plan| plan.host_routing = true)));
        switches.push(("host routing, unfused, direct grids", all));
    }
    switches
}

async fn check(device: &Device, name: &str, kernels: KernelSelection, exactly: bool) {
    let model = tiny(device, name).await;
    let goldens = goldens();
    let golden = goldens.iter().find(|golden| golden.model == name).expect("a golden");
    let base = options_for(golden, kernels);
    let seen = see(&model, golden, &base).await;
    golden.f32.check(&seen.logits, Tolerance::F32).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(seen.replies[0], golden.f32.greedy, "{name}");
    if exactly {
        for (switch, options) in exact(&base) {
            let other = see(&model, golden, &options).await;
            assert_eq!(other.replies, seen.replies, "{name}, {kernels:?}: {switch}");
            assert!(other.bits() == seen.bits(), "{name}, {kernels:?}: {switch}");
        }
    }
    for (switch, options) in near(device, &model, &base) {
        let other = see(&model, golden, &options).await;
        let share = golden.f32.check(&other.logits, Tolerance::F32);
        let share = share.unwrap_or_else(|error| panic!("{name}, {kernels:?}, {switch}: {error}"));
        let same = if other.bits() == seen.bits() { ", the same bits" } else { "" };
        println!("{name}: {switch}: {share:.3} of the bound{same}");
        assert_eq!(other.replies, seen.replies, "{name}, {kernels:?}: {switch}");
    }
}

#[test]
fn switches_that_keep_the_order_of_sums_change_no_bit() {
    pollster::block_on(async {
        let device = shared_gpu();
        check(&device, "moe-q4_k-q6_k", KernelSelection::GPU, true).await;
        check(&device, "moe-bf16-f16-tied", software(&device), true).await;
        check(&device, "llama-f16-f32-biases-linear", KernelSelection::GPU, true).await;
        check(&Device::cpu(), "moe-f32", KernelSelection::GPU, true).await;
    });
}

#[test]
fn dispatches_in_pieces_give_the_same_bits() {
    pollster::block_on(async {
        let device = shared_gpu();
        let goldens = goldens();
        for name in ["moe-q4_k-q6_k", "qwen3-q5_0-q4_1-biases", "llama-q4_0-q5_1-freqs"] {
            let model = tiny(&device, name).await;
            let golden = goldens.iter().find(|golden| golden.model == name).expect("a golden");
            for kernels in [KernelSelection::GPU, software(&device)] {
                let base = options_for(golden, kernels);
                let seen = see(&model, golden, &base).await;
                for (kernels, max_submit) in [(direct(kernels), Duration::ZERO), (kernels, Duration::from_nanos(1))] {
                    let small = planned(&base, |plan| plan.kernels = Some(kernels)).max_submit(max_submit);
                    let other = see(&model, golden, &small).await;
                    assert_eq!(other.replies, seen.replies, "{name}, {kernels:?}");
                    assert!(other.bits() == seen.bits(), "{name}, {kernels:?}");
                }
            }
        }
    });
}

#[test]
fn replies_do_not_depend_on_the_kernel_selection() {
    pollster::block_on(async {
        let device = shared_gpu();
        for (name, _) in tiny_models() {
            check(&device, name, KernelSelection::GPU, false).await;
        }
    });
}

#[test]
fn demo_model_replies_do_not_depend_on_switches() {
    pollster::block_on(async {
        let device = shared_gpu();
        let model = demo(&device).await;
        let requests: Vec<_> = [5, 40].map(|len| (prompt(&model, len, len.into()), greedy(6))).into();
        let base = options(2, 64, KernelSelection::GPU);
        let expected = replies(&engine(&model, &base).await, &requests).await;
        for (switch, options) in exact(&base).into_iter().chain(near(&device, &model, &base)) {
            assert_eq!(replies(&engine(&model, &options).await, &requests).await, expected, "{switch}");
        }
    });
}

/// Checks a reply against the host's sampler, from the engine's logits. Returns how many of its
/// tokens are decided, with the cut-offs and the random number far enough from a border.
async fn check_reply(
    model: &Model,
    options: &EngineOptions,
    request: &(Vec<u32>, GenerateOptions),
    reply: &[u32],
) -> usize {
    let (prompt, asked) = request;
    let o = &asked.sampling;
    let neutral = SamplingOptions::default();
    let penalises = (o.repetition_penalty, o.presence_penalty, o.frequency_penalty)
        != (neutral.repetition_penalty, neutral.presence_penalty, neutral.frequency_penalty)
        || !o.logit_bias.is_empty();
    let strengths = [o.repetition_penalty, o.presence_penalty, o.frequency_penalty, f32::from(u8::from(penalises))];
    let vocab = model.config().vocab as usize;
    let (mut bias, mut counts) = (vec![0.0; vocab], vec![0; vocab]);
    o.logit_bias.iter().for_each(|(id, by)| bias[*id as usize] += by);
    prompt.iter().for_each(|id| counts[*id as usize] |= penalties::IN_PROMPT);
    // Penalties are applied here, so that an undecided token counts too.
    let unpenalised = o
        .clone()
        .repetition_penalty(neutral.repetition_penalty)
        .presence_penalty(neutral.presence_penalty)
        .frequency_penalty(neutral.frequency_penalty)
        .logit_bias(Vec::new());
    let mut sampler = Sampler::new(unpenalised).expect("valid options");
    let mut session = engine(model, options).await.session();
    let mut logits = session.forward(prompt).await.expect("a prompt");
    let mut told = 0;
    for (sampled, token) in (0u64..).zip(reply) {
        for ((logit, bias), count) in logits.iter_mut().zip(&bias).zip(&counts) {
            *logit = penalties::penalised(*logit, *bias, *count, strengths);
        }
        let xtc = [o.xtc_probability, o.xtc_threshold, 0.0, 0.0];
        let cuts = [[o.temperature, o.top_k as f32, o.top_p, o.min_p], xtc];
        let draws = [o.seed as u32, (o.seed >> 32) as u32, sampled as u32, (sampled >> 32) as u32];
        // A device's penalised logits are off by a few roundings.
        let border = if penalises { 1e-4 } else { 1e-5 };
        let wanted = sampler.sample(&logits).expect("a token");
        if draw::margin(&logits, cuts, draws) > border {
            assert_eq!(*token, wanted, "{o:?}, token {sampled}");
            told += 1;
        }
        counts[*token as usize] += u32::from(penalises);
        logits = session.decode(*token).await.expect("a step");
    }
    told
}

#[test]
fn device_sampling_equals_host_sampling() {
    pollster::block_on(async {
        let device = shared_gpu();
        let (mut told, mut all) = (0, 0);
        for (model, kernels) in [
            (tiny(&device, "moe-q4_k-q6_k").await, KernelSelection::GPU),
            (tiny(&device, "llama-q4_0-q5_1-freqs").await, software(&device)),
        ] {
            let base = options(8, 64, kernels);
            let host = base.clone().host_sampling(true);
            let requests: Vec<_> =
                (0..8).map(|i| (prompt(&model, 3 + 4 * i as u32, i as u64), sampled(8, sampling(i)))).collect();
            let by_device = replies(&engine(&model, &base).await, &requests).await;
            let by_host = replies(&engine(&model, &host).await, &requests).await;
            for ((request, by_device), by_host) in requests.iter().zip(&by_device).zip(&by_host) {
                let greedily = request.1.sampling.temperature == 0.0;
                assert!(by_device == by_host || !greedily, "{:?}", request.1.sampling);
                for reply in [by_device, by_host] {
                    told += check_reply(&model, &base, request, reply).await;
                    all += reply.len();
                }
            }
        }
        println!("{told} of {all} tokens are far enough from a border");
        assert!(10 * told >= 9 * all, "only {told} of {all} tokens are far enough from a border");
    });
}
