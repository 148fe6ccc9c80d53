//! Times of the main kernels, each variant at shapes of Qwen3-30B-A3B, and of gated delta nets at Qwen3.6-35B-A3B's, on the default adapter:
//! `cargo bench --bench kernels [-- FILTER]`. FILTER is a substring of a line's kernel, variant and shape.
//!
//! Prints the shortest GPU time of several rounds after a warm-up; the rate in GB/s of the bytes that must be read and
//! written; and the rate of multiplications and additions in GFLOP/s.

use ferrum_wgpu::{
    Adapter, Device, GpuError,
    low_level::{
        gpu::{Buffer, Kernel, Program, Recorder},
        kernels::{
            attn::{
                AttnTile, CHUNK, KvIndex, RopeHead, RopeVariant, Tiles, attention, attention_split_kv, can_fuse_rope,
                partial_words, rope_attention, rope_attention_split_kv,
            },
            delta_net::{DeltaHeads, NO_SLOT, RowRun, causal_conv, conv_window, gated_delta_rule, gated_rms_norm},
            elementwise::rms_norm,
            linear::{Epilogue, Indexing, Input, Matmul, gemm, gemv, gemv_batched, gemv_moe_combine},
            moe::sort,
        },
        quant::{Planes, WeightType, random_blocks},
    },
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 7;
/// The formats of all products. Those of a single row are timed in every format.
const TYPES: [WeightType; 2] = [WeightType::Q4K, WeightType::Q6K];
const HIDDEN: u32 = 2048;
const INNER: u32 = 768;
/// The experts per token. The stack holds no others.
const EXPERTS: u32 = 8;
const HEAD_DIM: u32 = 128;
const HEADS: u32 = 32;
const KV_HEADS: u32 = 4;
const DELTA_HEADS: DeltaHeads = DeltaHeads { key_heads: 16, value_heads: 32, repeat: 1, head_dim: 128 };

fn main() -> Result {
    // Cargo adds `--bench`.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    pollster::block_on(bench(filter))
}

async fn bench(filter: String) -> Result {
    let adapter = Adapter::find(None).await?;
    println!("{} ({}, {})", adapter.name(), adapter.backend(), adapter.driver());
    let bench = Bench { device: Device::new(&adapter).await?, filter };
    println!("{:>10} {:>8} {:>9}  kernel, variant, shape", "us", "GB/s", "GFLOP/s");
    for ty in TYPES {
        bench.products(ty).await?;
        bench.experts(ty).await?;
    }
    for ty in WeightType::ALL.into_iter().filter(|ty| !TYPES.contains(ty)) {
        bench.single_rows(ty).await?;
    }
    for rows in [1, 128] {
        bench.norm(rows).await?;
    }
    for (rows, depth) in [(1, 256), (1, 4096), (16, 1024), (128, 1024)] {
        bench.attention(rows, depth).await?;
    }
    for (rows, runs) in [(1, 1), (64, 1), (64, 8)] {
        bench.delta_net(rows, runs).await?;
    }
    Ok(())
}

struct Bench {
    device: Device,
    filter: String,
}

/// The minimal work of a dispatch.
#[derive(Clone, Copy)]
struct Work {
    bytes: f64,
    flops: f64,
}

/// A matrix or a stack of matrices.
struct Weights {
    planes: Planes,
    words: Buffer<[u32; 4]>,
}

impl Bench {
    /// Times one dispatch, if it matches the filter.
    async fn time<K: Kernel>(
        &self,
        kernel: K,
        variant: K::Variant,
        shape: &str,
        work: Work,
        params: K::Params,
        binds: K::Binds<'_>,
    ) -> Result {
        let name = format!("{} {variant:?} {shape}", K::NAME);
        if !name.to_lowercase().contains(&self.filter.to_lowercase()) {
            return Ok(());
        }
        let mut recorder = Recorder::new();
        recorder.dispatch(kernel, variant, params, binds)?;
        let mut program = Program::new(&self.device);
        program.prepare(&self.device, recorder.finish()).await?;
        let mut best = f64::INFINITY;
        for round in 0..=ROUNDS {
            let time: f64 = program.profile(&self.device).await?.iter().map(|stage| stage.time.as_secs_f64()).sum();
            // Some drivers compile in the first round. A timestamp counter that wraps around yields 0.
            if round > 0 && time > 0.0 {
                best = best.min(time);
            }
        }
        println!("{:>10.1} {:>8.2} {:>9.2}  {name}", best * 1e6, work.bytes / best / 1e9, work.flops / best / 1e9);
        Ok(())
    }

    async fn weights(&self, ty: WeightType, rows: u32, k: u32) -> Result<Weights> {
        let planes = Planes::new(ty, rows.into(), k.into()).ok_or("no rows of whole blocks")?;
        // Repeats a few blocks: their values do not matter.
        let blocks = random_blocks(ty, 512, 0.05, 1);
        let raw: Vec<u8> =
            blocks.iter().copied().cycle().take((planes.file_row_bytes() * u64::from(rows)) as usize).collect();
        let words = self.device.alloc("weights", planes.vec4s()).await?;
        for part in planes.pack(0, &raw) {
            self.device.write(&words, part.start, &part.words).await?;
        }
        Ok(Weights { planes, words })
    }

    /// Uploads values in -1..1.
    async fn floats(&self, label: &str, len: u32) -> std::result::Result<Buffer<f32>, GpuError> {
        let values: Vec<f32> = (0..len).map(|i| (i.wrapping_mul(7919) % 1013) as f32 / 506.5 - 1.0).collect();
        self.device.upload(label, &values).await
    }

    /// Times products of a row with one matrix.
    async fn single_rows(&self, ty: WeightType) -> Result {
        let (n, k) = (HIDDEN, 4096);
        let Weights { planes, words } = self.weights(ty, n, k).await?;
        let x = self.floats("inputs", k).await?.cast();
        let y = self.device.alloc("outputs", n.into()).await?;
        let matmul = Matmul::dense(&planes, 1, Epilogue::Store);
        let bytes = words.bytes() as f64 + 4.0 * f64::from(n + k);
        let work = Work { bytes, flops: 2.0 * f64::from(n) * f64::from(k) };
        for v in <gemv::Gemv as Kernel>::supported(self.device.caps()) {
            if v.ty == ty && v.indexing == Indexing::Dense && v.input == Input::Plain {
                let params = gemv::Params { matmul, ..Default::default() };
                let binds = gemv::Binds { w: &words, x: &x, norm: None, ids: None, y: &y };
                self.time(gemv::Gemv, v, &format!("[1, {k}] x [{n}, {k}]"), work, params, binds).await?;
            }
        }
        Ok(())
    }

    /// Times matmuls with one matrix.
    async fn products(&self, ty: WeightType) -> Result {
        for (n, k) in [(HIDDEN, 4096), (5120, HIDDEN)] {
            let Weights { planes, words } = self.weights(ty, n, k).await?;
            let x = self.floats("inputs", 128 * k).await?.cast();
            let norm = self.floats("norm", k).await?.cast();
            let y = self.device.alloc("outputs", u64::from(128 * n)).await?;
            for rows in [1, 4, 16, 128] {
                let shape = format!("[{rows}, {k}] x [{n}, {k}]");
                let work = Work {
                    bytes: words.bytes() as f64 + 4.0 * f64::from(rows) * f64::from(n + k),
                    flops: 2.0 * f64::from(rows) * f64::from(n) * f64::from(k),
                };
                let matmul = Matmul::dense(&planes, rows, Epilogue::Store);
                if rows <= 4 {
                    for v in <gemv::Gemv as Kernel>::supported(self.device.caps()) {
                        if v.ty == ty && v.indexing == Indexing::Dense {
                            let params = gemv::Params { matmul, eps: 1e-6, ..Default::default() };
                            let binds = gemv::Binds { w: &words, x: &x, norm: Some(&norm), ids: None, y: &y };
                            self.time(gemv::Gemv, v, &shape, work, params, binds).await?;
                        }
                    }
                }
                if rows > 1 {
                    for v in <gemv_batched::GemvBatched as Kernel>::supported(self.device.caps()) {
                        if v.ty == ty && v.indexing == Indexing::Dense {
                            let tiles = rows.div_ceil(gemv_batched::TILE_ROWS);
                            let params = gemv_batched::Params { matmul, tiles, x_offset: 0 };
                            let binds = gemv_batched::Binds { w: &words, x: &x, assignments: None, tiles: None, y: &y };
                            self.time(gemv_batched::GemvBatched, v, &shape, work, params, binds).await?;
                        }
                    }
                }
                if rows >= 16 {
                    for v in <gemm::Gemm as Kernel>::supported(self.device.caps()) {
                        if v.ty == ty && v.indexing == Indexing::Dense {
                            let params = gemm::Params { matmul, tiles: rows.div_ceil(v.tile_rows.count()) };
                            let binds = gemm::Binds { w: &words, x: &x, assignments: None, tiles: None, y: &y };
                            self.time(gemm::Gemm, v, &shape, work, params, binds).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Times the expert matmuls of a token, gated and combined, and those of a prompt, sorted by expert.
    async fn experts(&self, ty: WeightType) -> Result {
        let up = self.weights(ty, EXPERTS * 2 * INNER, HIDDEN).await?;
        let down = self.weights(ty, EXPERTS * HIDDEN, INNER).await?;
        for tokens in [1, 128] {
            let assignments = tokens * EXPERTS;
            let x = self.floats("inputs", tokens * HIDDEN).await?;
            let gate = self.floats("gated", assignments * INNER).await?;
            let y = self.device.alloc("outputs", u64::from(tokens * HIDDEN)).await?;
            let weights = self.floats("weights", assignments).await?;
            let norm = self.floats("norm", HIDDEN).await?;
            let ids = self.device.upload("ids", &(0..assignments).map(|i| i % EXPERTS).collect::<Vec<u32>>()).await?;
            let shape = format!("{tokens} tokens, {EXPERTS} experts, [{INNER}, {HIDDEN}]");
            let matmul = Matmul::experts(&up.planes, EXPERTS, assignments, EXPERTS, Epilogue::Gate);
            let flops = 4.0 * f64::from(assignments) * f64::from(INNER) * f64::from(HIDDEN);
            let work =
                Work { bytes: up.words.bytes() as f64 + 4.0 * f64::from(tokens * HIDDEN + assignments * INNER), flops };
            let experts = |of: WeightType, indexing| of == ty && indexing == Indexing::Expert;
            if tokens == 1 {
                for v in <gemv::Gemv as Kernel>::supported(self.device.caps()) {
                    if experts(v.ty, v.indexing) {
                        let (x, norm) = (x.cast(), norm.cast());
                        let binds = gemv::Binds { w: &up.words, x: &x, norm: Some(&norm), ids: Some(&ids), y: &gate };
                        let params = gemv::Params { matmul, eps: 1e-6, ..Default::default() };
                        self.time(gemv::Gemv, v, &shape, work, params, binds).await?;
                    }
                }
                for v in <gemv_moe_combine::GemvMoeCombine as Kernel>::supported(self.device.caps()) {
                    if v.ty == ty {
                        let params = gemv_moe_combine::Params {
                            rows: tokens,
                            n: HIDDEN,
                            k: INNER,
                            k_blocks: down.planes.k_blocks(),
                            n_blocks: down.planes.blocks(),
                            top_k: EXPERTS,
                            experts: EXPERTS,
                            weight_rows: HIDDEN,
                        };
                        let x = gate.cast();
                        let binds =
                            gemv_moe_combine::Binds { w: &down.words, x: &x, ids: &ids, weights: &weights, y: &y };
                        let work = Work { bytes: down.words.bytes() as f64, flops: flops / 2.0 };
                        self.time(gemv_moe_combine::GemvMoeCombine, v, &shape, work, params, binds).await?;
                    }
                }
                continue;
            }
            for tile_rows in [gemv_batched::TILE_ROWS, 32, 64] {
                let max_tiles = sort::max_tiles(assignments, EXPERTS, tile_rows);
                let counts = self.device.alloc("counts", EXPERTS.into()).await?;
                let offsets = self.device.alloc("offsets", u64::from(EXPERTS) + 1).await?;
                let sorted = self.device.alloc("assignments", assignments.into()).await?;
                let tiles = self.device.alloc("tiles", max_tiles.into()).await?;
                let grids = self.device.alloc("grids", 6).await?;
                let mut recorder = Recorder::new();
                let params =
                    sort::Params { assignments, experts: EXPERTS, tile_rows, max_tiles, first_grid: 1, second_grid: 1 };
                let binds = sort::Binds {
                    ids: &ids,
                    counts: &counts,
                    offsets: &offsets,
                    sorted: &sorted,
                    tiles: &tiles,
                    grids: &grids,
                };
                recorder.dispatch(sort::MoeSort, (), params, binds)?;
                let mut program = Program::new(&self.device);
                program.prepare(&self.device, recorder.finish()).await?;
                program.run(&self.device).await?;
                let x = x.cast();
                if tile_rows >= 32 {
                    for v in <gemm::Gemm as Kernel>::supported(self.device.caps()) {
                        if experts(v.ty, v.indexing) && v.tile_rows.count() == tile_rows {
                            let binds = gemm::Binds {
                                w: &up.words,
                                x: &x,
                                assignments: Some(&sorted),
                                tiles: Some(&tiles),
                                y: &gate,
                            };
                            self.time(gemm::Gemm, v, &shape, work, gemm::Params { matmul, tiles: max_tiles }, binds)
                                .await?;
                        }
                    }
                } else {
                    for v in <gemv_batched::GemvBatched as Kernel>::supported(self.device.caps()) {
                        if experts(v.ty, v.indexing) {
                            let (assignments, tiles) = (Some(&sorted), Some(&tiles));
                            let binds = gemv_batched::Binds { w: &up.words, x: &x, assignments, tiles, y: &gate };
                            let params = gemv_batched::Params { matmul, tiles: max_tiles, x_offset: 0 };
                            self.time(gemv_batched::GemvBatched, v, &shape, work, params, binds).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn norm(&self, rows: u32) -> Result {
        let x = self.floats("inputs", rows * HIDDEN).await?;
        let w = self.floats("norm", HIDDEN).await?;
        let y = self.device.alloc("outputs", u64::from(rows * HIDDEN)).await?;
        let elements = f64::from(rows) * f64::from(HIDDEN);
        let params = rms_norm::Params { rows, n: HIDDEN, x_rows: rows, y_stride: HIDDEN, y_offset: 0, eps: 1e-6 };
        let binds = rms_norm::Binds { x: &x, w: &w, picks: None, y: &y };
        let work = Work { bytes: 8.0 * elements, flops: 4.0 * elements };
        self.time(rms_norm::RmsNorm, rms_norm::Rows::All, &format!("[{rows}, {HIDDEN}]"), work, params, binds).await
    }

    /// Times the kernels of a gated delta net between its projections, for runs of as many rows.
    async fn delta_net(&self, n_rows: u32, n_runs: u32) -> Result {
        let (heads, slots, of_run) = (DELTA_HEADS, n_runs, n_rows / n_runs);
        let (alpha_offset, eps) = (heads.channels() + heads.values(), 1e-6);
        let x_stride = alpha_offset + 2 * heads.value_heads;
        let run = |row: u32| {
            let first = row / of_run * of_run;
            let to = if row + 1 == first + of_run { row / of_run } else { NO_SLOT };
            RowRun { first, end: first + of_run, from: row / of_run, to }.words()
        };
        let rows = &self.device.upload("rows", &(0..n_rows).map(run).collect::<Vec<_>>()).await?;
        let runs = &self.device.upload("runs", &(0..n_runs).map(|run| run * of_run).collect::<Vec<_>>()).await?;
        let x = &self.floats("projections", n_rows * x_stride).await?;
        let w = &self.floats("taps", 4 * heads.channels()).await?.cast();
        let gates = &self.floats("gates", 2 * heads.value_heads).await?;
        let windows = &self.floats("windows", slots * heads.window()).await?;
        let states = &self.floats("states", slots * heads.state()).await?.cast();
        let prepared = &self.floats("prepared", n_rows * heads.prepared()).await?;
        let mixed = &self.floats("mixed", n_rows * heads.values()).await?;
        let norm = &self.floats("norm", heads.head_dim).await?.cast();
        let shape = format!("{n_rows} rows in {n_runs} runs");
        let [of_rows, of_states] = [n_rows * heads.prepared(), slots * heads.state()].map(f64::from);
        let work = Work { bytes: 8.0 * of_rows, flops: 8.0 * of_rows };
        let beta_offset = alpha_offset + heads.value_heads;
        let variant = if n_rows == n_runs { causal_conv::Runs::OneRow } else { causal_conv::Runs::Any };
        let params =
            causal_conv::Params { n_rows, heads, slots, x_stride, x_offset: 0, alpha_offset, beta_offset, eps };
        let binds = causal_conv::Binds { x, w, gates, rows, windows, y: prepared };
        self.time(causal_conv::CausalConv, variant, &shape, work, params, binds).await?;
        let params = conv_window::Params { n_rows, n_runs, heads, slots, x_stride, x_offset: 0 };
        let binds = conv_window::Binds { x, rows, runs, windows };
        let of_windows = Work { bytes: 8.0 * f64::from(slots * heads.window()), flops: 0.0 };
        self.time(conv_window::ConvWindow, (), &shape, of_windows, params, binds).await?;
        let params = gated_delta_rule::Params { n_rows, n_runs, heads, slots };
        let binds = gated_delta_rule::Binds { x: prepared, x_vec4: &prepared.cast(), rows, runs, states, y: mixed };
        let flops = 8.0 * f64::from(n_rows) * f64::from(heads.state());
        let of_rule = Work { bytes: 4.0 * of_rows + 8.0 * of_states, flops };
        self.time(gated_delta_rule::GatedDeltaRule, (), &shape, of_rule, params, binds).await?;
        let z_offset = heads.channels();
        let params = gated_rms_norm::Params {
            rows: n_rows,
            heads: heads.value_heads,
            head_dim: heads.head_dim,
            z_stride: x_stride,
            z_offset,
            eps,
        };
        let binds = gated_rms_norm::Binds { x: &mixed.cast(), w: norm, z: &x.cast(), y: &prepared.cast() };
        self.time(gated_rms_norm::GatedRmsNorm, (), &shape, work, params, binds).await
    }

    /// Times rows that attend to `depth` positions of one sequence, from queries and, of single rows, from projections.
    async fn attention(&self, rows: u32, depth: u32) -> Result {
        let (q_len, chunks, block) = (HEADS * HEAD_DIM, depth.div_ceil(CHUNK), 32);
        let q = &self.floats("queries", rows * q_len).await?.cast();
        let qkv = &self.floats("projections", rows * (q_len + 2 * KV_HEADS * HEAD_DIM)).await?.cast();
        let norm = Some(&self.floats("norms", 2 * HEAD_DIM).await?.cast());
        let rotations = &self.floats("rotations", depth * HEAD_DIM).await?.cast();
        let y = &self.device.alloc("attended", u64::from(rows * q_len)).await?;
        let words = u64::from(rows * HEADS * chunks * partial_words(HEAD_DIM));
        let partials = &self.device.alloc("partial sums", words).await?;
        let positions: Vec<u32> = (0..rows).flat_map(|row| [depth - rows + row, 0]).collect();
        let positions = &self.device.upload("positions", &positions).await?;
        let blocks = depth.div_ceil(block);
        let table = &self.device.upload("table", &(0..blocks).collect::<Vec<u32>>()).await?;
        let index = KvIndex { kv_heads: KV_HEADS, capacity: depth, sequences: 1, max_blocks: blocks, block, blocks };
        let tile = AttnTile::new(rows, HEADS, KV_HEADS, HEAD_DIM, Tiles::new(HEADS / KV_HEADS, rows > 1));
        let head = RopeHead { head_dim: HEAD_DIM, eps: 1e-6 };
        let shape = format!("{rows} rows at {depth}");
        for v in <attention::Attention as Kernel>::supported(self.device.caps()) {
            if v.head_dim != HEAD_DIM || v.sinks || v.gated {
                continue;
            }
            let words = 2 * u64::from(KV_HEADS) * u64::from(blocks * block) * u64::from(v.kv.head_words(HEAD_DIM));
            let kv = &self.device.alloc("cache", words).await?;
            let work = Work {
                bytes: 4.0 * words as f64 + 8.0 * f64::from(rows * q_len),
                flops: 4.0 * f64::from(rows) * f64::from(q_len) * f64::from(depth),
            };
            let binds = attention::Binds { q, kv, positions, table, sinks: None, gate: None, y };
            self.time(attention::Attention, v, &shape, work, attention::Params { tile, index }, binds).await?;
            let binds = attention_split_kv::Binds { q, kv, positions, table, partials };
            let params = attention_split_kv::Params { tile, index, chunks };
            self.time(attention_split_kv::AttentionSplitKv, v, &shape, work, params, binds).await?;
            if rows > 1 || !can_fuse_rope(HEAD_DIM, HEADS / KV_HEADS, v.reduction) {
                continue;
            }
            let v = RopeVariant { attention: v, norm: true, interleaved: false };
            let params = rope_attention::Params { tile, index, head };
            let binds = rope_attention::Binds { qkv, norm, rotations, positions, table, gate: None, kv, y };
            self.time(rope_attention::RopeAttention, v, &shape, work, params, binds).await?;
            let params = rope_attention_split_kv::Params { tile, index, head, chunks };
            let binds = rope_attention_split_kv::Binds { qkv, norm, rotations, positions, table, kv, partials };
            self.time(rope_attention_split_kv::RopeAttentionSplitKv, v, &shape, work, params, binds).await?;
        }
        Ok(())
    }
}
