//! llama.cpp's kernels in the model of time, for comparison.

use super::{Gpu, Work, typed};
use crate::{
    gpu::Stage,
    kernels::linear::{gemv, gemv_moe_combine, gemv_q8},
    model::PlannedDispatch,
    quant::WeightType,
};

/// Groups of dispatches of a layer of llama.cpp that depend on each other, of a dense layer and of one with experts. Those that
/// read weights: Q, K and V; the output; the router; gate and up; down.
const WITH_WEIGHTS: [f64; 2] = [4.0, 5.0];
/// The others, after its fusions of 2025: two norms, RoPE with the norms of queries and keys, the store to the cache, attention,
/// SwiGLU, two sums with the residual, and a conversion of activations before each matrix; with experts also top-k and the
/// weighted sum.
const OTHERS: [f64; 2] = [12.0, 14.0];

/// The time of a token of llama.cpp in the model, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    /// Of the products with weights.
    pub weights: f64,
    /// Groups of dispatches.
    pub dispatches: f64,
    /// Of all of them.
    pub total: f64,
}

/// Returns the time of a token of llama.cpp's with the matrices of `dispatches`, a decode step of one sequence.
pub fn llama_cpp_token(gpu: &Gpu, dispatches: &[PlannedDispatch]) -> Token {
    let weights =
        dispatches.iter().filter_map(|dispatch| llama_cpp(gpu, dispatch)).map(|work| gpu.time(&work).work()).sum();
    let scopes = || dispatches.iter().map(|dispatch| dispatch.step.scope());
    let layers = scopes().filter_map(|scope| scope.layer).max().map_or(0.0, |last| f64::from(last + 1));
    let kind = usize::from(scopes().any(|scope| scope.stage == Stage::Router));
    // A kernel that reads and writes a row of activations.
    let small = Work {
        bytes: 16e3,
        invocations: 2048.0,
        instructions: 150.0,
        rounds: 3.0,
        waves: gpu.code.waves[3],
        weights: false,
    };
    // The embedding, the last norm and the logits.
    let (others, groups) = (layers * OTHERS[kind] + 2.0, layers * (OTHERS[kind] + WITH_WEIGHTS[kind]) + 3.0);
    Token { weights, dispatches: groups, total: weights + groups * gpu.dispatch + others * gpu.time(&small).work() }
}

/// Returns what llama.cpp's kernel for the matrix of a dispatch asks of a GPU, for one row. `None` for a dispatch without a matrix.
///
/// `mul_mat_vec` of its Vulkan backend: a workgroup of 64 for two rows of K-quants or one of floats, whose lanes split K,
/// 16 weights of a lane at a time.
pub fn llama_cpp(gpu: &Gpu, dispatch: &PlannedDispatch) -> Option<Work> {
    let op = dispatch.step.op();
    let of_gemv = typed::<gemv::Gemv>(op).map(|(v, p)| (v.ty, p.matmul.weight_rows, p.matmul.rows, p.matmul.k));
    let of_q8 = || typed::<gemv_q8::GemvQ8>(op).map(|(v, p)| (v.ty, p.matmul.weight_rows, p.matmul.rows, p.matmul.k));
    let of_sum = || typed::<gemv_moe_combine::GemvMoeCombine>(op).map(|(v, p)| (v.ty, p.n, p.rows * p.top_k, p.k));
    let (ty, n, matrices, k) = of_gemv.or_else(of_q8).or_else(of_sum)?;
    let [q4k, q6k, floats] = gpu.code.llama_cpp;
    let (rows, of_weight) = match ty {
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => (1.0, floats),
        WeightType::Q4_0 | WeightType::Q4_1 | WeightType::Q4K | WeightType::Q8_0 => (2.0, q4k),
        _ => (2.0, q6k),
    };
    let workgroups = (f64::from(n) / rows).ceil() * f64::from(matrices);
    let turns = (f64::from(k) / 1024.0).ceil();
    Some(Work {
        bytes: dispatch.bytes,
        invocations: 64.0 * workgroups,
        instructions: f64::from(k) / 64.0 * rows * of_weight + 60.0,
        rounds: turns,
        waves: gpu.code.waves[1],
        weights: true,
    })
}
