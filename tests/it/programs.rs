//! Execution of programs: indirect grids, steps on the host, split submissions, times of stages.

use std::{ops::ControlFlow, time::Instant};

use ferrum_wgpu::{
    Adapter, Device, GpuError,
    low_level::{
        conformance::{Replayed, replay},
        gpu::{Buffer, Caps, Plan, Program, Readback, Recorder, Scope, Stage},
        kernels::{
            elementwise::gated_activation::{self, Activation, Layout},
            linear::{Epilogue, Indexing, Matmul, Mma, TileType, gemm},
            moe::{router_topk, sort},
        },
        quant::{Planes, Rng, WeightType},
    },
};

const TOKENS: u32 = 50;
const USED: u32 = 2;
const ASSIGNMENTS: u32 = TOKENS * USED;
const EXPERTS: u32 = 9;
/// More than the 64 outputs of a workgroup, so that grids have several columns.
const N: u32 = 130;
const K: u32 = 64;

async fn gpu() -> Device {
    let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
    Device::new(&adapter).await.expect("a device")
}

/// The steps of a [`Layer`] that run on the host, and the grid of its GEMM.
#[derive(Clone, Copy, Debug)]
struct How {
    indirect: bool,
    host_router: bool,
    host_sort: bool,
    host_gemm: bool,
}

const ALL_ON_DEVICE: How = How { indirect: true, host_router: false, host_sort: false, host_gemm: false };

/// Router, token permutation, and the experts' GEMM.
struct Layer {
    logits: Buffer<f32>,
    ids: Buffer<u32>,
    weights: Buffer<f32>,
    counts: Buffer<u32>,
    offsets: Buffer<u32>,
    sorted: Buffer<u32>,
    tiles: Buffer<[u32; 4]>,
    grids: Buffer<u32>,
    w: Buffer<[u32; 4]>,
    planes: Planes,
    x: Buffer<[f32; 4]>,
    y: Buffer<f32>,
}

impl Layer {
    async fn new(device: &Device) -> Self {
        let mut rng = Rng::new(7);
        let mut normals = |n: u32| -> Vec<f32> { (0..n).map(|_| rng.normal()).collect() };
        let planes = Planes::new(WeightType::F32, u64::from(EXPERTS * N), K.into()).expect("a shape");
        let mut words = vec![[0; 4]; planes.vec4s() as usize];
        for part in planes.pack(0, bytemuck::cast_slice(&normals(EXPERTS * N * K))) {
            words[part.start as usize..][..part.words.len()].copy_from_slice(&part.words);
        }
        let x = normals(TOKENS * K);
        // Half of the experts get no tokens, so that there are fewer tiles than the maximum.
        let mut logits = normals(TOKENS * EXPERTS);
        logits.chunks_exact_mut(EXPERTS as usize).for_each(|row| row[4..].fill(-100.0));
        let fits = "the buffer fits";
        Self {
            logits: device.upload("logits", &logits).await.expect(fits),
            ids: device.alloc("ids", ASSIGNMENTS.into()).await.expect(fits),
            weights: device.alloc("weights", ASSIGNMENTS.into()).await.expect(fits),
            counts: device.alloc("counts", EXPERTS.into()).await.expect(fits),
            offsets: device.alloc("offsets", u64::from(EXPERTS) + 1).await.expect(fits),
            sorted: device.alloc("sorted", ASSIGNMENTS.into()).await.expect(fits),
            tiles: device
                .alloc("tiles", sort::max_tiles(ASSIGNMENTS, EXPERTS, gemm::TileRows::ThirtyTwo.count()).into())
                .await
                .expect(fits),
            grids: device.alloc("grids", 6).await.expect(fits),
            w: device.upload("w", &words).await.expect(fits),
            planes,
            x: device.upload("x", &bytemuck::pod_collect_to_vec::<f32, [f32; 4]>(&x)).await.expect(fits),
            y: device.upload("y", &vec![f32::NAN; (ASSIGNMENTS * N) as usize]).await.expect(fits),
        }
    }

    fn gemm(&self) -> (gemm::Variant, gemm::Params, gemm::Binds<'_>) {
        let (ty, indexing, tile, mma) = (WeightType::F32, Indexing::Expert, TileType::F32, Mma::Fma);
        let variant = gemm::Variant { ty, indexing, tile, mma, tile_rows: gemm::TileRows::ThirtyTwo };
        let params = gemm::Params {
            matmul: Matmul::experts(&self.planes, EXPERTS, ASSIGNMENTS, USED, Epilogue::Store),
            tiles: sort::max_tiles(ASSIGNMENTS, EXPERTS, gemm::TileRows::ThirtyTwo.count()),
        };
        let (assignments, tiles) = (Some(&self.sorted), Some(&self.tiles));
        let binds = gemm::Binds { w: &self.w, x: &self.x, assignments, tiles, y: &self.y };
        (variant, params, binds)
    }

    fn plan(&self, how: How) -> Plan {
        let mut rec = Recorder::new();
        rec.scope(Stage::Router);
        rec.on_host(how.host_router);
        let params = router_topk::Params { rows: TOKENS, experts: EXPERTS, top_k: USED, scale: 1.0 };
        let binds = router_topk::Binds { logits: &self.logits, ids: &self.ids, weights: &self.weights };
        rec.dispatch(
            router_topk::RouterTopk,
            router_topk::Variant { normalise: true, shared: router_topk::Shared::None },
            params,
            binds,
        )
        .expect("a step");
        rec.on_host(how.host_sort);
        let max_tiles = sort::max_tiles(ASSIGNMENTS, EXPERTS, gemm::TileRows::ThirtyTwo.count());
        let columns = N.div_ceil(64);
        rec.dispatch(
            sort::MoeSort,
            (),
            sort::Params {
                assignments: ASSIGNMENTS,
                experts: EXPERTS,
                tile_rows: gemm::TileRows::ThirtyTwo.count(),
                max_tiles,
                first_grid: 1,
                second_grid: columns,
            },
            sort::Binds {
                ids: &self.ids,
                counts: &self.counts,
                offsets: &self.offsets,
                sorted: &self.sorted,
                tiles: &self.tiles,
                grids: &self.grids,
            },
        )
        .expect("a step");
        rec.scope(Stage::GateUp);
        rec.on_host(how.host_gemm);
        let (variant, params, binds) = self.gemm();
        if how.indirect {
            rec.dispatch_indirect(gemm::Gemm, variant, params, binds, &self.grids, 3).expect("a step");
        } else {
            rec.dispatch(gemm::Gemm, variant, params, binds).expect("a step");
        }
        rec.finish()
    }
}

async fn prepared(device: &Device, plan: Plan) -> Program {
    let mut program = Program::new(device);
    program.prepare(device, plan).await.expect("a program");
    program
}

async fn read(device: &Device, buffer: &Buffer<f32>) -> Vec<f32> {
    let readback = Readback::new::<f32>(device, buffer.len(), 1).await.expect("a reader");
    readback.read(device, buffer, buffer.len()).await.expect("what it holds")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Returns the GEMM's output.
async fn output(device: &Device, how: How) -> Vec<f32> {
    let layer = Layer::new(device).await;
    let program = prepared(device, layer.plan(how)).await;
    program.run(device).await.expect("it runs");
    read(device, &layer.y).await
}

#[test]
fn an_indirect_grid_gives_the_same_bits() {
    pollster::block_on(async {
        let direct = How { indirect: false, ..ALL_ON_DEVICE };
        let validating = Adapter::enumerate_validating().await;
        let validating = Device::new(validating.first().expect("an adapter")).await.expect("a device");
        for device in [gpu().await, validating, Device::cpu()] {
            let wanted = output(&device, direct).await;
            assert!(wanted.iter().all(|v| v.is_finite()), "every pair has its expert");
            assert_eq!(bits(&output(&device, ALL_ON_DEVICE).await), bits(&wanted), "{}", device.name());
        }
    });
}

async fn replayed(device: &Device, how: How) -> Vec<Replayed> {
    let layer = Layer::new(device).await;
    let program = prepared(device, layer.plan(how)).await;
    let mut steps = Vec::new();
    let seen = |step| {
        steps.push(step);
        ControlFlow::Continue(())
    };
    replay(device, &program, seen).await.expect("a replay");
    steps
}

#[test]
fn a_replay_finds_a_grid_that_is_too_small() {
    pollster::block_on(async {
        let device = gpu().await;
        for how in [ALL_ON_DEVICE, How { host_sort: true, ..ALL_ON_DEVICE }] {
            let steps = replayed(&device, how).await;
            assert!(steps.len() == 3 && steps.iter().all(Replayed::passed), "{how:?} {steps:#?}");
        }
        // On a device that has not compiled the kernel yet.
        let device = gpu().await;
        device.edit_shaders("moe/sort", "grids[4] = min(all_tiles, p.max_tiles);", "grids[4] = all_tiles - 1u;");
        let passed: Vec<_> = replayed(&device, ALL_ON_DEVICE).await.iter().map(Replayed::passed).collect();
        assert_eq!(passed, [true, false, false]);
        let direct = How { indirect: false, ..ALL_ON_DEVICE };
        let passed: Vec<_> = replayed(&device, direct).await.iter().map(Replayed::passed).collect();
        assert_eq!(passed, [true, false, true]);
    });
}

#[test]
fn invalid_indirect_grids_are_rejected() {
    pollster::block_on(async {
        for device in [gpu().await, Device::cpu()] {
            let layer = Layer::new(&device).await;
            let mut rec = Recorder::new();
            let (variant, params, binds) = layer.gemm();
            let outside = rec.dispatch_indirect(gemm::Gemm, variant, params, binds, &layer.grids, 4);
            assert!(matches!(outside, Err(GpuError::OutOfRange { .. })), "{outside:?}");
            let (variant, params, binds) = layer.gemm();
            let written = rec.dispatch_indirect(gemm::Gemm, variant, params, binds, &layer.y.cast(), 0);
            assert!(matches!(written, Err(GpuError::Aliased { .. })), "{written:?}");
            let (variant, params, binds) = layer.gemm();
            let matmul = Matmul { weight_rows: 64 * 32_768 + 1, ..params.matmul };
            let params = gemm::Params { matmul, ..params };
            let folded = rec.dispatch_indirect(gemm::Gemm, variant, params, binds, &layer.grids, 3);
            assert!(matches!(folded, Err(GpuError::GridTooLarge { .. })), "{folded:?}");
            let (variant, params, binds) = layer.gemm();
            let params = gemm::Params { tiles: u32::MAX, ..params };
            rec.dispatch_indirect(gemm::Gemm, variant, params, binds, &layer.grids, 3).expect("a step");
            let result = Program::new(&device).prepare(&device, rec.finish()).await;
            assert!(device.is_cpu() || matches!(result, Err(GpuError::GridTooLarge { .. })), "{result:?}");
            // A buffer of another device.
            let other = Layer::new(&if device.is_cpu() { gpu().await } else { Device::cpu() }).await;
            let mut rec = Recorder::new();
            let (variant, params, binds) = layer.gemm();
            rec.dispatch_indirect(gemm::Gemm, variant, params, binds, &other.grids, 3).expect("a step");
            let result = Program::new(&device).prepare(&device, rec.finish()).await;
            assert!(device.is_cpu() || matches!(result, Err(GpuError::OutOfRange { .. })), "{result:?}");
        }
    });
}

#[test]
fn steps_on_the_host_give_the_same_results() {
    pollster::block_on(async {
        let device = gpu().await;
        let wanted = output(&device, ALL_ON_DEVICE).await;
        for (host_router, host_sort) in [(true, false), (false, true), (true, true)] {
            let how = How { host_router, host_sort, ..ALL_ON_DEVICE };
            assert_eq!(bits(&output(&device, how).await), bits(&wanted), "{how:?}");
        }
        // The CPU kernel sums in f64.
        let by_cpu_kernel = output(&device, How { host_gemm: true, ..ALL_ON_DEVICE }).await;
        for (a, b) in by_cpu_kernel.iter().zip(&wanted) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        let all = How { indirect: true, host_router: true, host_sort: true, host_gemm: true };
        assert_eq!(bits(&output(&device, all).await), bits(&by_cpu_kernel));

        let layer = Layer::new(&device).await;
        let mut program = prepared(&device, layer.plan(How { host_sort: true, ..ALL_ON_DEVICE })).await;
        assert!(program.has_host_steps());
        for result in [program.submit(&device), program.submit_steps(&device, 0..2)] {
            assert!(matches!(result, Err(GpuError::HostSteps)), "{result:?}");
        }
        for step in [0..1, 1..2] {
            program.run_steps(&device, step).await.expect("it runs");
        }
        program.submit_steps(&device, 2..3).expect("it runs");
        assert_eq!(bits(&read(&device, &layer.y).await), bits(&wanted));
        program.prepare(&device, layer.plan(ALL_ON_DEVICE)).await.expect("a program");
        assert!(!program.has_host_steps());
        program.submit(&device).expect("it runs");

        // On the CPU device, all steps run on the host.
        let device = Device::cpu();
        let layer = Layer::new(&device).await;
        let program = prepared(&device, layer.plan(all)).await;
        assert!(!program.has_host_steps());
        program.submit(&device).expect("it runs");
        assert_eq!(bits(&read(&device, &layer.y).await), bits(&by_cpu_kernel));
    });
}

#[test]
fn each_part_of_a_split_indirect_dispatch_runs_once() {
    pollster::block_on(async {
        let device = gpu().await;
        let mut seen = Vec::new();
        for parts in [1, 5, usize::MAX] {
            let layer = Layer::new(&device).await;
            prepared(&device, layer.plan(ALL_ON_DEVICE)).await.submit(&device).expect("it runs");
            let mut rec = Recorder::new();
            let (variant, mut params, binds) = layer.gemm();
            params.matmul.epilogue = Epilogue::Accumulate.code();
            rec.dispatch_indirect(gemm::Gemm, variant, params, binds, &layer.grids, 3).expect("a step");
            let mut program = prepared(&device, rec.finish()).await;
            program.split_submissions(&device, parts).await.expect("a program");
            program.submit(&device).expect("it runs");
            seen.push(bits(&read(&device, &layer.y).await));
        }
        assert!(seen[0] == seen[1] && seen[0] == seen[2]);
    });
}

/// Creates a plan of `stages` stages of two dispatches.
async fn stages(device: &Device, stages: usize) -> Plan {
    let x = device.upload("x", &[1.0f32; 4096]).await.expect("the buffer fits");
    let y = device.upload("y", &[1.0f32; 4096]).await.expect("the buffer fits");
    let mut rec = Recorder::new();
    for stage in 0..stages {
        rec.scope(Scope::layer(stage as u32, Stage::Other));
        rec.on_host(stage == 1);
        for _ in 0..2 {
            let variant = gated_activation::Variant { layout: Layout::Split, activation: Activation::SwiGlu };
            let params = gated_activation::Params { rows: 1, n: 4096 };
            let binds = gated_activation::Binds { x: &x, y: &y };
            rec.dispatch(gated_activation::GatedActivation, variant, params, binds).expect("a step");
        }
    }
    rec.finish()
}

#[test]
fn a_program_is_split_into_submissions() {
    pollster::block_on(async {
        assert!(Program::new(&Device::cpu()).shares().is_empty());
        for (device, indirect) in [(gpu().await, false), (gpu().await, true), (Device::cpu(), true)] {
            let how = How { indirect, ..ALL_ON_DEVICE };
            let wanted = bits(&output(&device, how).await);
            let layer = Layer::new(&device).await;
            let mut program = prepared(&device, layer.plan(how)).await;
            assert_eq!((program.submissions(), program.shares()), (1, vec![1.0]));
            for parts in [2, 3, 7, 20, 1000, usize::MAX, 1] {
                program.split_submissions(&device, parts).await.expect("a program");
                let shares = program.shares();
                assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
                // A workgroup of the GEMM costs most, and cannot be split.
                let most = shares.iter().copied().fold(0.0, f64::max);
                assert!(most <= f64::max(1.000_001 / parts as f64, 0.05), "{parts}: {shares:?}");
                assert!(
                    shares.len() >= parts.min(20) && shares.len() <= parts.saturating_mul(2),
                    "{parts}: {shares:?}"
                );
                // Later plans are split too.
                for _ in 0..2 {
                    device.write(&layer.y, 0, &vec![f32::NAN; (ASSIGNMENTS * N) as usize]).await.expect("it fits");
                    program.submit(&device).expect("it runs");
                    assert!(bits(&read(&device, &layer.y).await) == wanted, "{how:?}, {parts}");
                    program.prepare(&device, layer.plan(how)).await.expect("a program");
                    assert_eq!((program.submissions(), program.shares()), (parts, shares.clone()));
                }
            }
            // Step by step.
            program.split_submissions(&device, usize::MAX).await.expect("a program");
            device.write(&layer.y, 0, &vec![f32::NAN; (ASSIGNMENTS * N) as usize]).await.expect("it fits");
            for step in 0..3 {
                program.run_steps(&device, step..step + 1).await.expect("it runs");
            }
            assert!(bits(&read(&device, &layer.y).await) == wanted, "{how:?}");
            // A program without memory for its parameters is empty.
            let mut program = prepared(&device, stages(&device, 200).await).await;
            device.fail_allocations_after(0);
            let result = program.split_submissions(&device, usize::MAX).await;
            device.fail_allocations_after(u64::MAX);
            assert!(device.is_cpu() || matches!(result, Err(GpuError::OutOfMemory { .. })), "{result:?}");
            assert_eq!(program.plan().steps().is_empty(), !device.is_cpu());
        }
    });
}

#[test]
fn stages_are_timed() {
    pollster::block_on(async {
        let adapter = Adapter::find(None).await.expect("an adapter: `make setup` installs a software one");
        let device = Device::new(&adapter).await.expect("a device");
        let times = device.caps().timestamps;
        assert!(times || !adapter.features().contains(&"timestamps"));
        for device in [&device, &Device::cpu()] {
            // A few stages, and more than a query set holds.
            for count in if device.is_cpu() { [5, 5] } else { [5, 2500] } {
                let program = prepared(device, stages(device, count).await).await;
                let start = Instant::now();
                let result = program.profile(device).await;
                let wall = start.elapsed();
                if !device.is_cpu() && !times {
                    assert!(matches!(result, Err(GpuError::NoTimestamps { .. })), "{result:?}");
                    continue;
                }
                let stages = result.expect("times");
                assert_eq!(stages.len(), count);
                for (i, stage) in (0..).zip(&stages) {
                    assert_eq!((stage.scope, stage.dispatches), (Scope::layer(i, Stage::Other), 2));
                    assert!(stage.time.as_nanos() > 0, "{stage:?}");
                }
                let sum: std::time::Duration = stages.iter().map(|stage| stage.time).sum();
                println!("{}: {count} stages, {sum:?} of {wall:?}", device.name());
                assert!(sum <= wall, "{sum:?} of {wall:?}");
            }
            let nothing = Program::new(device).profile(device).await;
            assert!(nothing.is_ok_and(|stages| stages.is_empty()) || !times);
        }
        let masked = Device::masked(&adapter, &Caps::portable()).await.expect("a device");
        let program = prepared(&masked, stages(&masked, 3).await).await;
        assert!(matches!(program.profile(&masked).await, Err(GpuError::NoTimestamps { .. })));
    });
}
