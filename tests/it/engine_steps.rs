//! What an engine tells of its steps, and what it makes ready for them.

use std::{
    pin::pin,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use crate::common::engines::{bits, demo, engine, gpu, greedy, options, prompt, replies, sampled, sampling, tiny};
use ferrum_wgpu::{
    Device, EngineError, Requirements,
    low_level::{
        engine::{PassKind, Stage},
        model::{ExpertGrids, KernelSelection, PlanOptions},
    },
    wgpu,
};

#[test]
fn a_profile_has_all_stages_with_times() {
    pollster::block_on(async {
        let device = gpu().await;
        for (model, experts) in [(demo(&device).await, true), (tiny(&device, "llama-q4_0-q5_1-freqs").await, false)] {
            for host_routing in [false, experts] {
                let mut options = options(3, 64, KernelSelection::GPU).profile(true);
                options.plan.host_routing = host_routing;
                let engine = engine(&model, &options).await;
                let empty = engine.profile().await;
                assert!(empty.phases.is_empty());
                let requests: Vec<_> = (0..3).map(|i| (prompt(&model, 12, i), greedy(4 + 3 * i as u32))).collect();
                let start = Instant::now();
                let said = replies(&engine, &requests).await;
                let wall = start.elapsed();
                let profile = engine.profile().await;
                let mut sum = Duration::ZERO;
                for phase in [PassKind::Prefill, PassKind::Decode, PassKind::BatchedDecode] {
                    let total = profile.phases.get(&phase).unwrap_or_else(|| panic!("{phase:?}"));
                    let mut stages = vec![Stage::Embed, Stage::Attention];
                    stages.extend(experts.then_some(Stage::Router));
                    stages.extend([Stage::GateUp, Stage::DownProj]);
                    stages.extend(experts.then_some(Stage::MoeCombine));
                    stages.extend([Stage::Head, Stage::Sampling]);
                    assert!(total.stages.keys().eq(&stages), "{phase:?}: {:?}", total.stages);
                    for (stage, total) in &total.stages {
                        assert!(total.time > Duration::ZERO && total.dispatches > 0, "{phase:?}: {stage:?}");
                    }
                    assert!(total.passes > 0 && total.rows >= total.passes, "{phase:?}");
                    sum += total.stages.values().map(|stage| stage.time).sum::<Duration>();
                }
                assert!(sum <= wall, "{sum:?} of {wall:?}");
                println!("{sum:?} of {wall:?}");
                assert_eq!(profile.phases[&PassKind::Prefill].rows, 36);
                let sampled: u64 =
                    [PassKind::Decode, PassKind::BatchedDecode].iter().map(|phase| profile.phases[phase].rows).sum();
                let tokens: usize = said.iter().map(Vec::len).sum();
                // The first token of a reply comes from its prompt; two steps more may be under way at its end.
                assert!(
                    (tokens as u64 - 3..=tokens as u64 + 3).contains(&sampled),
                    "{sampled} rows for {tokens} tokens"
                );
            }
        }
    });
}

#[test]
fn nothing_is_profiled_by_default() {
    pollster::block_on(async {
        let device = gpu().await;
        let model = tiny(&device, "moe-f32").await;
        let engine = engine(&model, &options(1, 64, KernelSelection::GPU)).await;
        replies(&engine, &[(prompt(&model, 5, 0), greedy(2))]).await;
        assert!(engine.profile().await.phases.is_empty());
    });
}

#[test]
fn nothing_is_compiled_after_preparing() {
    pollster::block_on(async {
        let plans = [
            PlanOptions { kernels: Some(KernelSelection::GPU), ..PlanOptions::default() },
            PlanOptions {
                kernels: Some(KernelSelection { expert_grids: ExpertGrids::Direct, ..KernelSelection::SOFTWARE }),
                ..PlanOptions::default()
            },
            PlanOptions {
                kernels: Some(KernelSelection { batched_from: 6, expert_batched_from: 3, ..KernelSelection::SOFTWARE }),
                fused: false,
                host_routing: true,
                ..PlanOptions::default()
            },
        ];
        for (plan, name) in plans.into_iter().zip(["moe-q4_k-q6_k", "moe-bf16-f16-tied", "qwen3-q5_0-q4_1-biases"]) {
            // A device of its own: pipelines are a device's.
            let device = gpu().await;
            let model = tiny(&device, name).await;
            let options = options(9, 300, KernelSelection::GPU).plan(plan).max_logit_rows(4);
            let engine = engine(&model, &options).await;
            assert_eq!(device.created().pipelines, 0);
            let start = Instant::now();
            engine.warm_up().await.expect("shaders compile");
            let (made, took) = (device.created().pipelines, start.elapsed());
            println!("{name}: {made} pipelines in {took:?}");
            assert!(made > 10);
            engine.warm_up().await.expect("shaders compile");
            assert_eq!((device.created().pipelines, engine.decode_dispatches().await), (made, 0));
            let blocks = engine.blocks();
            assert_eq!(blocks.free, blocks.total);

            let requests: Vec<_> = (0..9)
                .map(|i| (prompt(&model, 1 + 30 * i as u32, i as u64), sampled(2 + i as u32, sampling(i))))
                .collect();
            replies(&engine, &requests).await;
            let mut session = engine.session();
            session.forward_each(&prompt(&model, 10, 1), |_| {}).await.expect("a prompt");
            let mut fork = session.fork().expect("an idle session");
            fork.decode(1).await.expect("a step");
            session.forward(&[2]).await.expect("a step");
            assert_eq!(device.created().pipelines, made, "{name}: something was compiled later");
        }
        let cpu = Device::cpu();
        let model = tiny(&cpu, "moe-f32").await;
        engine(&model, &options(2, 64, KernelSelection::GPU)).await.warm_up().await.expect("nothing to compile");
        assert_eq!(cpu.created().pipelines, 0);
    });
}

#[test]
fn preparing_reports_a_kernel_that_does_not_compile() {
    pollster::block_on(async {
        let device = gpu().await;
        let model = tiny(&device, "moe-f32").await;
        device.edit_shaders("moe/router_topk", "fn kernel", "fn krenel");
        let engine = engine(&model, &options(1, 64, KernelSelection::GPU)).await;
        let error = engine.warm_up().await.expect_err("a broken kernel");
        assert!(matches!(&error, EngineError::Gpu(_)) && error.to_string().contains("router_topk"), "{error}");
    });
}

#[test]
fn all_logits_of_one_sequence_leave_room_for_a_row_of_each_other() {
    pollster::block_on(async {
        let device = gpu().await;
        let model = tiny(&device, "moe-f32").await;
        let options = options(4, 64, KernelSelection::GPU).max_logit_rows(4).prefix_sharing(false);
        let engine = engine(&model, &options).await;
        let mut others: Vec<_> = (0..3).map(|_| engine.session()).collect();
        let (prompt, asked) = (prompt(&model, 20, 0), greedy(3));
        let mut running: Vec<_> =
            others.iter_mut().map(|session| session.generate(&prompt[..7], &asked).expect("a request")).collect();
        let mut together = Vec::new();
        engine.session().forward_each(&prompt, |row| together.push(bits(row))).await.expect("a prompt");
        for reply in &mut running {
            reply.next().await.expect("a step").expect("a token");
        }
        drop(running);
        let mut alone = Vec::new();
        engine.session().forward_each(&prompt, |row| alone.push(bits(row))).await.expect("a prompt");
        assert!(alone == together);
    });
}

#[test]
fn a_caller_runs_the_steps_of_a_long_prompt() {
    pollster::block_on(async {
        let device = gpu().await;
        let model = tiny(&device, "moe-f32").await;
        let options = options(1, 64, KernelSelection::GPU).prefill_rows(5);
        let engine = engine(&model, &options).await;
        let mut session = engine.session();
        let mut runs = 0;
        let run = async |device: &Device, program: &ferrum_wgpu::low_level::gpu::Program| {
            runs += 1;
            program.run(device).await.map_err(EngineError::from)
        };
        session.forward_by(&prompt(&model, 33, 0), run).await.expect("a prompt");
        assert_eq!((runs, session.len()), (7, 33));
    });
}

/// On an application's device, futures return pending and never block.
async fn borrowed() -> Device {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.expect("an adapter");
    let Requirements { features: required_features, limits: required_limits } = Requirements::of(&adapter);
    let descriptor = wgpu::DeviceDescriptor { required_features, required_limits, ..Default::default() };
    let (device, queue) = adapter.request_device(&descriptor).await.expect("a device");
    Device::from_wgpu(&adapter, device, queue).expect("a device")
}

#[test]
fn results_of_a_dropped_future_do_not_reach_the_next_request() {
    pollster::block_on(async {
        let device = borrowed().await;
        let model = tiny(&device, "moe-f32").await;
        let options = options(2, 64, KernelSelection::GPU).prefill_rows(2).prefix_sharing(false);
        let engine = engine(&model, &options).await;
        let (first, second) = (prompt(&model, 12, 0), prompt(&model, 9, 1));
        let mut session = engine.session();
        let expected = bits(&session.forward(&second).await.expect("a prompt"));
        for polls in [1, 2, 4, 7, 12, 20] {
            session.truncate(0).expect("an idle session");
            {
                let mut given_up = pin!(session.forward(&first));
                for _ in 0..polls {
                    if given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                        break;
                    }
                }
            }
            session.truncate(0).expect("an idle session");
            let logits = session.forward(&second).await.expect("a prompt");
            assert!(bits(&logits) == expected, "after {polls} polls");
        }
    });
}
