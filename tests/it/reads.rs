//! Counted weight traffic: what kernels declare, compared with the bytes that their outputs depend on; and that of a
//! pass, compared with the file.

use std::error::Error;

use crate::common::tiny_model::{Arch, TinyModel};
use ferrum_wgpu::{
    Device, Engine, EngineOptions, GenerateOptions, Gguf, GpuError, KvType, Model, SamplingOptions,
    low_level::{
        gpu::{Buffer, Program, Readback, Recorder},
        kernels::linear::{
            Epilogue, Indexing, Input, Matmul, Mma, RowsPerGroup, Split, TileType, embed, gemm, gemv, gemv_batched,
        },
        model::MemoryTraffic,
        quant::{Planes, Rng, WeightType, random_blocks},
    },
};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// A test case: a stack of four matrices of eight rows, in two parts.
const EXPERTS: u32 = 4;
const LOCAL: u32 = 2;
const N: u32 = 8;
const K: u32 = 64;

/// A part of the stack and its contents.
struct Part {
    planes: Planes,
    words: Vec<[u32; 4]>,
    buffer: Buffer<[u32; 4]>,
}

impl Part {
    async fn new(device: &Device, ty: WeightType, seed: u64) -> Result<Self> {
        let planes = Planes::new(ty, u64::from(LOCAL * N), K.into()).ok_or("no such matrix")?;
        let blocks = (LOCAL * N * K) as usize / ty.block_len();
        let mut words = vec![[0; 4]; planes.vec4s() as usize];
        for plane in planes.pack(0, &random_blocks(ty, blocks, 1.0, seed)) {
            words[plane.start as usize..][..plane.words.len()].copy_from_slice(&plane.words);
        }
        let buffer = device.upload("weights", &words).await?;
        Ok(Self { planes, words, buffer })
    }
}

/// Counts the bytes of the parts on which `y` depends: flips each group of 16 bytes and compares the output.
async fn used(device: &Device, parts: &[Part], program: &Program, y: &Buffer<f32>) -> Result<u64> {
    let readback = Readback::new::<f32>(device, y.len(), 1).await?;
    let run = async || -> std::result::Result<Vec<u32>, GpuError> {
        device.write(y, 0, &vec![0.0; y.len() as usize]).await?;
        program.run(device).await?;
        let y = readback.read(device, y, y.len()).await?;
        Ok(y.into_iter().map(f32::to_bits).collect())
    };
    let usual = run().await?;
    let mut bytes = 0;
    for part in parts {
        for (i, vec4) in (0..).zip(&part.words) {
            device.write_now(&part.buffer, i, &[vec4.map(|word| !word)])?;
            bytes += if run().await? == usual { 0 } else { 16 };
            device.write_now(&part.buffer, i, &[*vec4])?;
        }
    }
    Ok(bytes)
}

/// Counts the bytes that the steps of a program declare to read of their weights, their first binding.
fn counted(program: &Program) -> f64 {
    let bytes = |step: &ferrum_wgpu::low_level::gpu::Step| {
        let w = step.buffers().next().flatten().map_or(0.0, |w| w.bytes() as f64);
        step.op().sparse_reads().map_or(w, |s| {
            assert_eq!(s.binding, "w");
            w * f64::from(s.most) / f64::from(s.of)
        })
    };
    program.plan().steps().iter().map(bytes).sum()
}

/// A matmul kernel.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    Gemv,
    Batched,
    Gemm,
}

fn product(rec: &mut Recorder, kernel: Kernel, v: gemv::Variant, part: (&Part, u32), b: &Buffers) -> Result {
    let (Part { planes, buffer: w, .. }, first_expert) = part;
    let expert = v.indexing == Indexing::Expert;
    let matmul = if expert {
        Matmul { experts: EXPERTS, first_expert, ..Matmul::experts(planes, LOCAL, 2, 1, Epilogue::Store) }
    } else {
        Matmul { y_stride: EXPERTS * N, y_offset: first_expert * N, ..Matmul::dense(planes, 2, Epilogue::Store) }
    };
    let (x, y, assignments, tiles) = (&b.x, &b.y, expert.then_some(&b.assignments), expert.then_some(&b.tiles));
    // Two rows form one tile, unless they use different experts.
    let count = if expert { 2 } else { 1 };
    match kernel {
        Kernel::Gemv => {
            let binds = gemv::Binds { w, x, norm: None, ids: expert.then_some(&b.ids), y };
            rec.dispatch(gemv::Gemv, v, gemv::Params { matmul, ..Default::default() }, binds)?;
        }
        Kernel::Batched => {
            let binds = gemv_batched::Binds { w, x, assignments, tiles, y };
            let (ty, indexing, split) = (v.ty, v.indexing, v.split);
            let v = gemv_batched::Variant { ty, indexing, split };
            let params = gemv_batched::Params { matmul, tiles: count, x_offset: 0 };
            rec.dispatch(gemv_batched::GemvBatched, v, params, binds)?;
        }
        Kernel::Gemm => {
            let binds = gemm::Binds { w, x, assignments, tiles, y };
            let (ty, indexing, tile, mma) = (v.ty, v.indexing, TileType::F32, Mma::Fma);
            let v = gemm::Variant { ty, indexing, tile, mma, tile_rows: gemm::TileRows::ThirtyTwo };
            rec.dispatch(gemm::Gemm, v, gemm::Params { matmul, tiles: count }, binds)?;
        }
    }
    Ok(())
}

struct Buffers {
    x: Buffer<[f32; 4]>,
    y: Buffer<f32>,
    ids: Buffer<u32>,
    assignments: Buffer<u32>,
    tiles: Buffer<[u32; 4]>,
}

#[test]
fn matmuls_read_the_weights_they_declare() -> Result {
    pollster::block_on(async {
        let device = Device::cpu();
        let mut rng = Rng::new(3);
        let x: Vec<[f32; 4]> = (0..2 * K / 4).map(|_| std::array::from_fn(|_| rng.normal())).collect();
        let buffers = Buffers {
            x: device.upload("x", &x).await?,
            y: device.alloc("y", (2 * EXPERTS * N).into()).await?,
            // The first row uses an expert of the first part, the second row one of the second part.
            ids: device.upload("ids", &[1, 2]).await?,
            assignments: device.upload("assignments", &[0, 1]).await?,
            tiles: device.upload("tiles", &[[1, 0, 1, 0], [2, 1, 2, 0]]).await?,
        };
        for ty in [WeightType::F32, WeightType::Q8_0] {
            let parts = [Part::new(&device, ty, 1).await?, Part::new(&device, ty, 2).await?];
            for kernel in [Kernel::Gemv, Kernel::Batched, Kernel::Gemm] {
                for indexing in Indexing::ALL {
                    let mut rec = Recorder::new();
                    let (split, rows_per_group, input) = (Split::K, RowsPerGroup::Four, Input::Plain);
                    let variant = gemv::Variant { ty, indexing, split, rows_per_group, input };
                    for (part, first) in parts.iter().zip([0, LOCAL]) {
                        product(&mut rec, kernel, variant, (part, first), &buffers)?;
                    }
                    let mut program = Program::new(&device);
                    program.prepare(&device, rec.finish()).await?;
                    let used = used(&device, &parts, &program, &buffers.y).await?;
                    assert_eq!(counted(&program), used as f64, "{kernel:?} {ty} {indexing:?}");
                    let whole: u64 = parts.iter().map(|part| part.buffer.bytes()).sum();
                    assert_eq!(
                        used,
                        if indexing == Indexing::Dense { whole } else { whole / 2 },
                        "{kernel:?} {ty} {indexing:?}"
                    );
                }
            }
        }
        Ok(())
    })
}

#[test]
fn embedding_reads_single_rows() -> Result {
    pollster::block_on(async {
        let device = Device::cpu();
        let ty = WeightType::F32;
        let parts = [Part::new(&device, ty, 1).await?, Part::new(&device, ty, 2).await?];
        let ids = device.upload("ids", &[3, 20]).await?;
        let positions = device.upload("positions", &[0; 4]).await?;
        let y = device.alloc::<f32>("y", (2 * K).into()).await?;
        let mut rec = Recorder::new();
        for (part, first) in parts.iter().zip([0, LOCAL * N]) {
            let (k_blocks, n_blocks) = (part.planes.k_blocks(), part.planes.blocks());
            rec.dispatch(
                embed::Embed,
                embed::Variant::new(ty),
                embed::Params {
                    rows: 2,
                    n: EXPERTS * N,
                    first_row: first,
                    local_rows: LOCAL * N,
                    k: K,
                    k_blocks,
                    n_blocks,
                    sequences: 0,
                    scale: 1.0,
                },
                embed::Binds { w: &part.buffer, ids: &ids, positions: &positions, y: &y },
            )?;
        }
        let mut program = Program::new(&device);
        program.prepare(&device, rec.finish()).await?;
        let used = used(&device, &parts, &program, &y).await?;
        assert_eq!((counted(&program), used), (used as f64, 2 * 4 * u64::from(K)));
        Ok(())
    })
}

#[test]
fn a_pass_reads_the_weights_of_the_file() -> Result {
    let moe = TinyModel::default();
    let tied = TinyModel { arch: Arch::Qwen3, tied: true, biases: true, ..TinyModel::default() };
    pollster::block_on(async {
        for (tiny, experts) in [(moe, 2.0), (tied, 0.0)] {
            let gguf = Gguf::from_bytes(tiny.to_bytes()?)?;
            let reads = MemoryTraffic::of(&gguf)?;
            let all: u64 = gguf.tensors().iter().map(|tensor| tensor.bytes).sum();
            let count = if experts > 0.0 { u64::from(tiny.experts) } else { 0 };
            let rows = if tiny.tied { 0 } else { u64::from(tiny.vocab) };
            assert_eq!(reads.dense + reads.expert * count + reads.row * rows, all);
            assert_eq!((reads.experts(1), reads.row == 0), (experts, tiny.tied));
            assert!(reads.experts(3) > experts || experts == 0.0);
            let heads = u64::from(tiny.layers * tiny.kv_heads);
            assert_eq!(reads.position(KvType::F32), 2 * heads * 4 * u64::from(tiny.head_dim));

            let device = Device::cpu();
            let model = Model::load(&device, &gguf, |_, _| ()).await?;
            let engine = Engine::new(&model, &EngineOptions::default().context(16)).await?;
            assert_eq!(engine.decode_pass(experts).await.rows, 0);
            let greedy = GenerateOptions::default().sampling(SamplingOptions::greedy()).max_tokens(3).stop(Vec::new());
            let mut session = engine.session();
            let mut reply = session.generate(&[1, 2], &greedy)?;
            while reply.next().await?.is_some() {}
            let pass = engine.decode_pass(experts).await;
            assert_eq!((pass.rows, pass.dispatches), (1, engine.decode_dispatches().await));
            assert!(pass.layer_dispatches < pass.dispatches && pass.layer_dispatches > 4 * tiny.layers as usize);
            // The excess is the alignment of planes; the embedding row of tied embeddings is counted twice.
            let share = pass.weight_bytes / reads.weights(1, experts);
            assert!((1.0..1.01).contains(&share), "{share}");
        }
        Ok(())
    })
}
