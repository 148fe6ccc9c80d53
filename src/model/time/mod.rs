//! A model of the time of a dispatch on a GPU: the longest of three times, plus the cost of a dispatch.
//!
//! 1. *Bandwidth*: bytes / bandwidth.
//! 2. *Issue*: instructions of all waves / (schedulers · instructions a second of each).
//! 3. *Latency*: generations · (rounds · latency + instructions of a wave that is alone). A round is a set of loads that is
//!    waited for before the next one; a generation is as many waves as the device holds at once. By Little's law a GPU has its
//!    bandwidth only where the loads in flight cover the latency: too few waves make (3) longer than (1).
//!
//! The scheme is that of Hong and Kim (2009) without its memory partitions. Caches are not modelled: every byte comes from memory once.

mod gpus;
mod llama_cpp;

pub use gpus::{Code, Gpu};
pub use llama_cpp::{Token, llama_cpp, llama_cpp_token};

use super::PlannedDispatch;
use crate::{
    gpu::{Declaration, Op},
    kernels::{
        attn::{AttnTile, attention, attention_split_kv, rope_attention, rope_attention_split_kv},
        delta_net::gated_delta_rule,
        linear::{
            Indexing, Input, Matmul, Mma, RowsPerGroup,
            gemm::{self, TileRows},
            gemv, gemv_batched, gemv_moe_combine, gemv_q8,
        },
    },
    quant::WeightType,
};

/// What a dispatch asks of a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Bytes from memory.
    pub bytes: f64,
    /// Invocations.
    pub invocations: f64,
    /// Vector instructions of an invocation.
    pub instructions: f64,
    /// Loads of an invocation that wait for each other.
    pub rounds: f64,
    /// Waves that a scheduler holds.
    pub waves: f64,
    /// Whether it reads weights.
    pub weights: bool,
}

/// The times of a dispatch in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Time {
    /// By bandwidth.
    pub bandwidth: f64,
    /// By instructions.
    pub issue: f64,
    /// By latency.
    pub latency: f64,
    /// Of the dispatch itself.
    pub dispatch: f64,
}

impl Time {
    /// Returns the time of the dispatch's work.
    pub fn work(self) -> f64 {
        self.bandwidth.max(self.issue).max(self.latency)
    }

    /// Returns all of the time.
    pub fn total(self) -> f64 {
        self.work() + self.dispatch
    }

    /// Returns what bounds the work.
    pub fn bound(self) -> &'static str {
        match self.work() {
            work if work == self.bandwidth => "bandwidth",
            work if work == self.issue => "issue",
            _ => "latency",
        }
    }
}

impl Gpu {
    /// Returns the times of a dispatch.
    pub fn time(&self, work: &Work) -> Time {
        let waves = work.invocations / self.wave;
        let passes = self.wave / self.lanes;
        let alone = self.code.alone.max(passes) * work.instructions / self.clock / 1e3;
        Time {
            bandwidth: work.bytes / self.bandwidth / 1e3,
            issue: waves * work.instructions * passes / (self.schedulers * self.clock) / 1e3,
            latency: (waves / (self.schedulers * work.waves)).max(1.0) * (work.rounds * self.latency / 1e3 + alone),
            dispatch: self.dispatch,
        }
    }

    /// Returns what a planned dispatch asks of it.
    pub fn work(&self, dispatch: &PlannedDispatch) -> Work {
        let (op, code) = (dispatch.step.op(), self.code);
        let grid = op.grid();
        let (workgroups, workgroup) = (f64::from(grid.x) * f64::from(grid.y), f64::from(op.workgroup()));
        let work = Work {
            bytes: dispatch.bytes + state_bytes(op),
            invocations: workgroups * workgroup,
            instructions: 60.0,
            rounds: 2.0,
            waves: code.waves[3],
            weights: true,
        };
        if let Some((v, p)) = typed::<gemv::Gemv>(op) {
            let (rows, group) = (v.rows_per_group.rows(), usize::from(v.rows_per_group != RowsPerGroup::Four));
            let turns = f64::from(p.matmul.k_blocks.div_ceil(v.rows_per_group.lanes()));
            let normed = v.input == Input::Normed;
            let of_weight = code.gemv(v.ty)[group] + if normed { code.norm[group] } else { 0.0 };
            // The norm's prologue: all lanes read the row once, 16 bytes at a time.
            let prologue = if normed { f64::from(p.matmul.k) / 4.0 / workgroup } else { 0.0 };
            // Sums of lanes: by way of workgroup memory.
            let sums = 60.0 + if v.rows_per_group == RowsPerGroup::Quarter { 14.0 * turns } else { 0.0 };
            let instructions = turns * 32.0 * f64::from(rows) * of_weight + 20.0 * prologue + sums;
            return Work { instructions, rounds: turns + prologue, waves: code.waves[group], ..work };
        }
        if let Some((v, p)) = typed::<gemv_moe_combine::GemvMoeCombine>(op) {
            let turns = f64::from(p.k_blocks.div_ceil(8)) * f64::from(p.top_k);
            let of_turn = 32.0 * 4.0 * code.gemv(v.ty)[0];
            // Partial sums of eight experts are 8 KiB of workgroup memory.
            let waves = 4.0;
            return Work { instructions: turns * of_turn + 100.0, rounds: turns, waves, ..work };
        }
        if let Some((v, p)) = typed::<gemv_q8::GemvQ8>(op) {
            let turns = f64::from(p.matmul.k_blocks.div_ceil(8));
            let instructions = turns * 32.0 * 4.0 * code.int8[usize::from(!is_four_bits(v.ty))] + 60.0;
            return Work { instructions, rounds: turns, waves: code.waves[1], ..work };
        }
        if let Some((v, p)) = typed::<gemv_batched::GemvBatched>(op) {
            let turns = f64::from(p.matmul.k_blocks.div_ceil(8));
            let share = tiles_with_rows(&p.matmul, v.indexing, p.tiles, gemv_batched::TILE_ROWS);
            let [of_weight, of_row] = code.batched;
            // Each lane has two weight rows.
            let of = |rows: f64| turns * 32.0 * 2.0 * (of_weight + rows * of_row) + 100.0;
            let tile_rows = f64::from(gemv_batched::TILE_ROWS);
            let mean = (f64::from(p.matmul.rows) / (f64::from(p.tiles) * share)).clamp(1.0, tile_rows);
            let most = if v.indexing == Indexing::Dense { tile_rows.min(f64::from(p.matmul.rows)) } else { mean };
            // A dispatch waits for its fullest tiles: as many of these as have its instructions.
            let (instructions, invocations) = (of(most), work.invocations * share * of(mean) / of(most));
            return Work { invocations, instructions, rounds: turns, waves: code.waves[2], ..work };
        }
        if let Some((v, p)) = typed::<gemm::Gemm>(op) {
            let share = tiles_with_rows(&p.matmul, v.indexing, p.tiles, v.tile_rows.count());
            let of_tile = f64::from(v.tile_rows.count() * gemm::TILE_N) * f64::from(p.matmul.k) / workgroup;
            let of_product = match (v.mma, v.tile_rows) {
                (Mma::Fma, _) => code.gemm,
                (_, TileRows::ThirtyTwo) => code.matrices[0],
                (_, TileRows::SixtyFour) => code.matrices[1],
            };
            let (invocations, rounds) = (work.invocations * share, f64::from(p.matmul.k) / 32.0);
            return Work { invocations, instructions: of_tile * of_product, rounds, waves: code.waves[1], ..work };
        }
        if let Some((_, p)) = typed::<gated_delta_rule::GatedDeltaRule>(op) {
            // The rows of a run follow each other, and each waits for its own inputs.
            let rows = f64::from(p.n_rows) / f64::from(p.n_runs.max(1));
            let instructions = 150.0 + code.delta_rule * rows;
            return Work { instructions, rounds: 1.0 + rows, waves: code.waves[0], weights: false, ..work };
        }
        if op.kernel().starts_with("attn/") && op.cost() > 8 * work.invocations as u64 {
            let of_invocation = op.cost() as f64 / work.invocations;
            // A load of eight elements is multiplied with the queries of half a tile; four loads wait for memory at once.
            let queries = attention_tile(op).map_or(8, |tile| tile.tile_rows * tile.tile_heads);
            let loads = of_invocation / (4.0 * f64::from(queries.max(1)));
            let (instructions, rounds) = (of_invocation * code.attention, loads / 4.0);
            return Work { instructions, rounds, waves: code.waves[2], weights: false, ..work };
        }
        // Small kernels: two loads that wait for each other, and one for each 64 bytes of an invocation.
        let rounds = 2.0 + work.bytes / work.invocations / 64.0;
        Work { instructions: 60.0 + 20.0 * rounds, rounds, weights: op.kernel().starts_with("linear/"), ..work }
    }
}

impl Code {
    /// Returns the instructions of a GEMV of a format, with four rows a group and with one.
    fn gemv(&self, ty: WeightType) -> [f64; 2] {
        match ty {
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => self.floats,
            ty if is_four_bits(ty) => self.q4k,
            _ => self.q6k,
        }
    }
}

/// Returns whether a block of a format is decoded by about as many instructions as one of Q4_K.
fn is_four_bits(ty: WeightType) -> bool {
    matches!(ty, WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q4K | WeightType::Q8_0)
}

/// Returns the bytes of states and caches that a dispatch reads by a binding that it also writes, which
/// [`PlannedDispatch::bytes`] lacks, and of the states that it writes.
fn state_bytes(op: &dyn Op) -> f64 {
    if let Some((_, p)) = typed::<gated_delta_rule::GatedDeltaRule>(op) {
        // f32, read before a run and written after it.
        return 8.0 * f64::from(p.heads.state()) * f64::from(p.n_runs);
    }
    let single = typed::<rope_attention::RopeAttention>(op).map(|(v, p)| (v, p.index, p.tile));
    let split = || typed::<rope_attention_split_kv::RopeAttentionSplitKv>(op).map(|(v, p)| (v, p.index, p.tile));
    single.or_else(split).map_or(0.0, |(v, index, tile)| {
        let of_row = index.sequence_bytes(v.attention.kv, v.attention.head_dim) as f64;
        let seen = f64::from(tile.most_keys(index.capacity)) / f64::from(index.capacity.max(1));
        f64::from(tile.rows) * of_row * seen
    })
}

/// Returns the tile of a dispatch of attention.
fn attention_tile(op: &dyn Op) -> Option<AttnTile> {
    let tile = typed::<attention::Attention>(op).map(|(_, p)| p.tile);
    let tile = tile.or_else(|| typed::<attention_split_kv::AttentionSplitKv>(op).map(|(_, p)| p.tile));
    let tile = tile.or_else(|| typed::<rope_attention::RopeAttention>(op).map(|(_, p)| p.tile));
    tile.or_else(|| typed::<rope_attention_split_kv::RopeAttentionSplitKv>(op).map(|(_, p)| p.tile))
}

/// Returns the variant and the parameters of a dispatch of `K`.
fn typed<K: Declaration>(op: &dyn Op) -> Option<(&K::Variant, &K::Params)> {
    Some((op.typed_variant().downcast_ref()?, op.typed_params().downcast_ref()?))
}

/// Returns the share of `tiles` that have rows, if experts are chosen at random: tiles are as many as there can be.
fn tiles_with_rows(p: &Matmul, indexing: Indexing, tiles: u32, tile_rows: u32) -> f64 {
    if indexing == Indexing::Dense {
        return 1.0;
    }
    let (experts, rows) = (f64::from(p.experts), f64::from(p.rows));
    let mean = rows / experts;
    // Half of an expert's last tile is empty in the mean; few rows make one tile of each expert that has any.
    let some = experts * (1.0 - (-mean).exp());
    let expected = some.max(experts * (mean / f64::from(tile_rows) + 0.5) * (1.0 - (-mean).exp()));
    (expected / f64::from(tiles)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        DeviceProfile, DownProj, FileType, KernelSelection, Phase, PlanOptions, PlannedPasses, Precision, Preset,
        planned_pass,
    };

    /// Returns the milliseconds of the dispatches of a token that read weights: by bandwidth alone, modelled, and of llama.cpp's
    /// kernels.
    fn weights(model: &str, gpu: &Gpu, kernels: impl FnOnce(KernelSelection) -> KernelSelection) -> [f64; 3] {
        let gguf = Preset::named(model).expect("a preset").gguf(FileType::Q4KM).expect("a header");
        let (_, device) = DeviceProfile::known().into_iter().find(|(name, _)| *name == gpu.name).expect("a device");
        let kernels = Some(kernels(KernelSelection::select(&device, Precision::Exact)));
        let plan = PlanOptions { kernels, ..PlanOptions::default() };
        let passes = PlannedPasses { plan, context: 128, sequences: 1, ..PlannedPasses::default() };
        let dispatches = pollster::block_on(planned_pass(&gguf, &device, &passes, Phase::Decode)).expect("a plan");
        dispatches.iter().fold([0.0; 3], |[bandwidth, ours, theirs], dispatch| {
            let work = Some(gpu.work(dispatch)).filter(|work| work.weights);
            let [time, other] =
                [work, llama_cpp(gpu, dispatch)].map(|work| work.map(|work| gpu.time(&work)).unwrap_or_default());
            [bandwidth + time.bandwidth / 1e3, ours + time.work() / 1e3, theirs + other.work() / 1e3]
        })
    }

    #[test]
    fn few_waves_wait_for_memory_and_many_fill_the_bandwidth() {
        let gpu = &Gpu::ALL[0];
        let work = |workgroups: f64, rounds: f64| Work {
            bytes: 1e6,
            invocations: 64.0 * workgroups,
            instructions: 100.0,
            rounds,
            waves: 8.0,
            weights: true,
        };
        assert_eq!(gpu.time(&work(16.0, 8.0)).bound(), "latency");
        assert!(gpu.time(&work(16.0, 8.0)).work() > 2.0);
        assert_eq!(gpu.time(&work(512.0, 1.0)).bound(), "bandwidth");
        // Generations of waves follow each other.
        let [one, two] = [1.0, 2.0].map(|n| gpu.time(&work(n * 192.0 * 8.0, 8.0)).latency);
        assert!((two / one - 2.0).abs() < 1e-9);
    }

    const GPUS: [&str; 4] = ["RX 7900 XTX", "RTX 4090", "Arc A770", "Apple M1 Max"];

    #[test]
    fn weights_of_a_token_are_near_the_bandwidth() {
        for gpu in GPUS.map(|name| Gpu::named(name).expect("a GPU")) {
            for model in ["Qwen3-30B-A3B", "Llama-3.1-8B", "Qwen3-8B", "Qwen3-32B"] {
                let [bandwidth, ours, theirs] = weights(model, gpu, |kernels| kernels);
                let what = format!("{model} on {}: {ours:.2} ms of {bandwidth:.2}, {theirs:.2}", gpu.name);
                assert!(ours <= 1.15 * bandwidth.min(theirs), "{what}");
            }
        }
    }

    /// Returns the milliseconds of the matrices of a decode step of so many sequences.
    fn step(gguf: &crate::gguf::Gguf, gpu: &Gpu, sequences: u32) -> f64 {
        let (_, device) = DeviceProfile::known().into_iter().find(|(name, _)| *name == gpu.name).expect("a device");
        let passes = PlannedPasses { context: 128, sequences, ..PlannedPasses::default() };
        let dispatches = pollster::block_on(planned_pass(gguf, &device, &passes, Phase::Decode)).expect("a plan");
        let works = dispatches.iter().map(|dispatch| gpu.work(dispatch)).filter(|work| work.weights);
        works.map(|work| gpu.time(&work).work() / 1e3).sum()
    }

    #[test]
    fn a_step_of_more_sequences_has_no_cliff() {
        let gguf = Preset::named("Llama-3.1-8B").expect("a preset").gguf(FileType::Q4KM).expect("a header");
        for gpu in GPUS.map(|name| Gpu::named(name).expect("a GPU")) {
            let times: Vec<f64> = (1..=33).map(|rows| step(&gguf, gpu, rows)).collect();
            let shown: Vec<String> = times.iter().map(|time| format!("{time:.1}")).collect();
            let what = |rows: usize| format!("{} at {rows} rows: {}", gpu.name, shown.join(" "));
            for rows in 1..times.len() {
                let [before, now] = [times[rows - 1], times[rows]];
                // A tile more decodes all weights once more, for one row.
                assert!(now <= 1.45 * before, "{}", what(rows + 1));
                assert!(now >= 0.99 * before, "{}", what(rows + 1));
            }
            for rows in 1..=16 {
                // Twice the rows never take more than twice the time.
                assert!(times[2 * rows - 1] <= 2.0 * times[rows - 1], "{}", what(2 * rows));
            }
        }
    }

    #[test]
    fn four_rows_everywhere_are_too_few_waves() {
        for gpu in GPUS.map(|name| Gpu::named(name).expect("a GPU")) {
            let four = |kernels| KernelSelection { four_rows_from: 0, down_proj: DownProj::Combined, ..kernels };
            let [bandwidth, ours, _] = weights("Qwen3-30B-A3B", gpu, four);
            assert!(ours > 1.3 * bandwidth, "{}: {ours:.2} ms of {bandwidth:.2}", gpu.name);
        }
    }
}
