//! The tensors of a file, found by name and checked against the model's shape before anything is uploaded.

use std::{cell::RefCell, collections::HashSet};

use super::{
    Config, FeedForward, ModelError, QkNorm,
    config::SharedExpert,
    tree::{self, ModelTree, QkNormTree},
};
use crate::{
    gguf::{Gguf, TensorInfo},
    quant::{Planes, WeightType},
};

/// A weight matrix `[n, k]`, or one for each expert: the rows of one tensor, or of several.
#[derive(Clone, Debug)]
pub(crate) struct MatrixInfo<'a> {
    pub(crate) rows: Vec<TensorRows<'a>>,
    pub(crate) join: Join,
    pub(crate) planes: Planes,
    pub(crate) n: u32,
    pub(crate) experts: u32,
}

/// Rows of a tensor: all, or a range of each expert's where a tensor fuses several projections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorRows<'a> {
    pub(crate) tensor: &'a TensorInfo,
    pub(crate) range: RowRange,
    /// A factor of the tensor, or of each expert's matrix.
    pub(crate) scales: Option<&'a TensorInfo>,
}

/// `count` rows from row `first` on of every `stride` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowRange {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) stride: u64,
}

impl RowRange {
    /// Returns all of `count` rows.
    fn all(count: u64) -> Self {
        Self { first: 0, count, stride: count }
    }

    /// Returns whether it leaves out no row.
    pub(crate) fn is_whole(self) -> bool {
        self.count == self.stride
    }

    /// Returns the row of the tensor that is row `row` of the range.
    pub(crate) fn in_tensor(self, row: u64) -> u64 {
        row / self.count * self.stride + self.first + row % self.count
    }
}

/// The order in which a matrix has the rows of several tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// One tensor after the other.
    Concat,
    /// Rows of the tensors in turn.
    Interleaved,
}

impl MatrixInfo<'_> {
    /// Returns the name of its first tensor.
    pub(crate) fn name(&self) -> &str {
        self.rows.first().map_or("", |rows| &rows.tensor.name)
    }

    /// Returns its bytes in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.planes.file_row_bytes() * self.planes.rows()
    }

    /// Returns the number of rows that must stay in one buffer: an expert's matrix, or a row of gate and one of up.
    pub(crate) fn step(&self) -> u32 {
        match self.join {
            _ if self.experts > 1 => self.n,
            Join::Concat => 1,
            Join::Interleaved => self.rows.len() as u32,
        }
    }
}

/// A vector: the elements of one tensor, or of several, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct VectorInfo<'a> {
    pub(crate) tensors: Vec<&'a TensorInfo>,
    /// A factor of its elements.
    pub(crate) scale: f64,
}

impl VectorInfo<'_> {
    /// Returns the name of its first tensor.
    pub(crate) fn name(&self) -> &str {
        self.tensors.first().map_or("", |tensor| &tensor.name)
    }

    /// Returns its bytes in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Returns the number of its elements.
    pub(crate) fn elements(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.elements()).sum()
    }
}

type Linear<'a> = tree::Linear<MatrixInfo<'a>, VectorInfo<'a>>;
type Layer<'a> = tree::Layer<MatrixInfo<'a>, VectorInfo<'a>>;
type GateUp<'a> = tree::GateUp<MatrixInfo<'a>, VectorInfo<'a>>;
type FeedForwardTree<'a> = tree::FeedForwardTree<MatrixInfo<'a>, VectorInfo<'a>>;
type SharedTree<'a> = tree::SharedTree<MatrixInfo<'a>, VectorInfo<'a>>;

/// The tensors of a file.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    pub(crate) tree: ModelTree<MatrixInfo<'a>, VectorInfo<'a>>,
    /// The divisors of RoPE's frequencies.
    pub(crate) rope_freqs: Option<VectorInfo<'a>>,
}

/// Errors beyond this number are not listed.
const MOST_ERRORS: usize = 16;

impl<'a> Tensors<'a> {
    /// Finds all tensors.
    ///
    /// # Errors
    /// The first [`ModelError`] for one that is missing, has another shape, or should not be there.
    pub(crate) fn find(gguf: &'a Gguf, config: &Config) -> Result<Self, ModelError> {
        let first = |errors: Vec<ModelError>| errors.into_iter().next();
        Self::checked(gguf, config).map_err(|errors| first(errors).unwrap_or(ModelError::MissingTensor(String::new())))
    }

    /// Finds all tensors.
    ///
    /// # Errors
    /// Every [`ModelError`], up to a number.
    pub(crate) fn checked(gguf: &'a Gguf, config: &Config) -> Result<Self, Vec<ModelError>> {
        let find = Find { gguf, config, errors: RefCell::default(), taken: RefCell::default() };
        let tensors = find.all();
        let mut errors = find.errors.into_inner();
        let taken = find.taken.into_inner();
        if errors.len() < MOST_ERRORS && taken.len() < gguf.tensors().len() {
            let unknown = gguf.tensors().iter().filter(|t| !taken.contains(t.name.as_str()));
            errors.extend(unknown.map(|t| ModelError::UnknownTensor(t.name.clone())).take(MOST_ERRORS - errors.len()));
        }
        match tensors {
            Some(tensors) if errors.is_empty() => Ok(tensors),
            _ => Err(errors),
        }
    }

    /// Returns every matrix.
    pub(crate) fn matrices(&self) -> Vec<&MatrixInfo<'a>> {
        self.tree.matrices()
    }

    /// Returns every vector.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = &VectorInfo<'a>> {
        self.tree.vectors().into_iter().chain(&self.rope_freqs)
    }
}

/// Finds tensors by name, and notes every error.
struct Find<'a, 'c> {
    gguf: &'a Gguf,
    config: &'c Config,
    errors: RefCell<Vec<ModelError>>,
    /// The names of those found so far.
    taken: RefCell<HashSet<&'a str>>,
}

impl<'a> Find<'a, '_> {
    /// Returns all tensors; `None` if an error was noted.
    fn all(&self) -> Option<Tensors<'a>> {
        let c = self.config;
        let embedding = self.matrix("token_embd.weight", c.vocab, c.hidden);
        let mut layers = Some(Vec::new());
        for i in 0..c.layers {
            let layer = self.layer(&format!("blk.{i}."));
            layers = layers.zip(layer).map(|(mut layers, layer)| {
                layers.push(layer);
                layers
            });
            if self.errors.borrow().len() >= MOST_ERRORS {
                break;
            }
        }
        let output_norm =
            self.vector("output_norm.weight", c.hidden).map(|norm| VectorInfo { scale: c.scales.logits, ..norm });
        let output = self.has("output.weight").then(|| self.linear("output", c.vocab, c.hidden));
        let rope_freqs = self.optional_vector("rope_freqs.weight", c.head_dim / 2);
        Some(Tensors {
            tree: ModelTree {
                embedding: embedding?,
                layers: layers?,
                output_norm: output_norm?,
                output: match output {
                    Some(found) => Some(found?),
                    None => None,
                },
            },
            rope_freqs: rope_freqs?,
        })
    }

    fn layer(&self, p: &str) -> Option<Layer<'a>> {
        let c = self.config;
        let (hidden, q_len) = (c.hidden, c.q_len());
        let name = |rest: &str| format!("{p}{rest}");
        let norm = |rest: &str| self.vector(&name(&format!("{rest}.weight")), hidden);
        let post_norm = |rest: &str| if c.post_norms { norm(rest).map(Some) } else { Some(None) };
        // All are looked up before the first error ends it.
        let qk_norm = self.qk_norm(p);
        let attn_norm = norm("attn_norm");
        let qkv = self.qkv(p);
        let o = self.linear(&name("attn_output"), hidden, q_len);
        let sinks = if c.sinks { self.vector(&name("attn_sinks.weight"), c.heads).map(Some) } else { Some(None) };
        let attn_post_norm = post_norm("post_attention_norm");
        let ffn_norm = norm(c.ffn_norm);
        let ffn_post_norm = post_norm("post_ffw_norm");
        let feed_forward = match c.feed_forward {
            FeedForward::Dense { inner } => self.dense(p, "", inner).map(|(gate_up, down)| FeedForwardTree {
                router: None,
                shared: None,
                gate_up,
                down,
            }),
            FeedForward::Experts { count, inner, shared, .. } => self.experts(p, count, inner, shared),
        };
        Some(Layer {
            attn_norm: attn_norm?,
            qkv: qkv?,
            o: o?,
            qk_norm: qk_norm?,
            sinks: sinks?,
            attn_post_norm: attn_post_norm?,
            ffn_norm: ffn_norm?,
            ffn_post_norm: ffn_post_norm?,
            feed_forward: feed_forward?,
        })
    }

    fn qk_norm(&self, p: &str) -> Option<QkNormTree<VectorInfo<'a>>> {
        let c = self.config;
        let both = |q_len: u32, k_len: u32| {
            let q = self.vector(&format!("{p}attn_q_norm.weight"), q_len);
            q.zip(self.vector(&format!("{p}attn_k_norm.weight"), k_len))
        };
        match c.qk_norm {
            QkNorm::None => Some(QkNormTree::None),
            QkNorm::Head => both(c.head_dim, c.head_dim).map(|(q, k)| {
                let both = VectorInfo { tensors: [&q.tensors[..], &k.tensors[..]].concat(), scale: 1.0 };
                QkNormTree::Head(tree::QkNorm { both, key: k })
            }),
            QkNorm::Projection => both(c.q_len(), c.kv_len()).map(|(q, k)| QkNormTree::Projection { q, k }),
        }
    }

    /// Returns the query, key and value projections: three tensors, or one that has their rows one after the other.
    fn qkv(&self, p: &str) -> Option<Vec<Linear<'a>>> {
        let c = self.config;
        let sizes = [("attn_q", c.q_len()), ("attn_k", c.kv_len()), ("attn_v", c.kv_len())];
        let fused = format!("{p}attn_qkv");
        let linears = if self.has(&format!("{fused}.weight")) {
            let n: u32 = sizes.iter().map(|(_, n)| n).sum();
            let whole = self.matrix(&format!("{fused}.weight"), n, c.hidden);
            let bias = self.optional_vector(&format!("{fused}.bias"), n)?;
            let mut first = 0;
            let mut linears = Vec::new();
            for (name, n) in sizes {
                let own = self.optional_vector(&format!("{p}{name}.bias"), n)?;
                if own.is_some() && bias.is_some() {
                    self.error(ModelError::UnknownTensor(format!("{p}{name}.bias")));
                }
                let range = RowRange { first, count: u64::from(n), stride: whole.as_ref()?.planes.rows() };
                linears.push(Linear { matrix: ranged(whole.as_ref()?, range)?, bias: own });
                first += u64::from(n);
            }
            if bias.is_some() {
                return whole.map(|matrix| vec![Linear { matrix, bias }]);
            }
            Some(linears)
        } else {
            let all = sizes.map(|(name, n)| self.linear(&format!("{p}{name}"), n, c.hidden));
            all.into_iter().collect()
        };
        let linears = linears?;
        // Norms of whole projections come between the product and the heads.
        Some(if c.qk_norm == QkNorm::Projection { linears } else { joined(linears) })
    }

    fn dense(&self, p: &str, suffix: &str, inner: u32) -> Option<(GateUp<'a>, Linear<'a>)> {
        let hidden = self.config.hidden;
        let name = |part: &str| format!("{p}ffn_{part}{suffix}");
        let gate_up = self.gate_and_up(&name("gate_up"), 1, inner, || {
            let gate = self.linear(&name("gate"), inner, hidden);
            gate.zip(self.linear(&name("up"), inner, hidden))
        });
        gate_up.zip(self.linear(&name("down"), hidden, inner))
    }

    fn experts(&self, p: &str, count: u32, inner: u32, shared: Option<SharedExpert>) -> Option<FeedForwardTree<'a>> {
        let hidden = self.config.hidden;
        let name = |rest: &str| format!("{p}{rest}");
        let router = self.linear(&name("ffn_gate_inp"), count, hidden);
        let gate_up = self.gate_and_up(&name("ffn_gate_up_exps"), count, inner, || {
            let gate = self.stack(&name("ffn_gate_exps"), count, inner, hidden);
            gate.zip(self.stack(&name("ffn_up_exps"), count, inner, hidden))
        });
        let down = self.stack(&name("ffn_down_exps"), count, hidden, inner);
        let shared = match shared {
            None => Some(None),
            Some(SharedExpert { inner, gated }) => {
                let gate = match gated {
                    true => self.vector(&name("ffn_gate_inp_shexp.weight"), hidden).map(Some),
                    false => Some(None),
                };
                let block = self.dense(p, "_shexp", inner);
                gate.zip(block).map(|(gate, (gate_up, down))| Some(SharedTree { gate, gate_up, down }))
            }
        };
        Some(FeedForwardTree { router: Some(router?), shared: shared?, gate_up: gate_up?, down: down? })
    }

    /// Returns gate and up: of one tensor `fused`, the gate's rows before up's, or the two that `separate` finds.
    fn gate_and_up(
        &self,
        fused: &str,
        experts: u32,
        inner: u32,
        separate: impl FnOnce() -> Option<(Linear<'a>, Linear<'a>)>,
    ) -> Option<GateUp<'a>> {
        if !self.has(&format!("{fused}.weight")) {
            return separate().map(|(gate, up)| gate_up(gate, up));
        }
        let tensor = self.stack(fused, experts, 2 * inner, self.config.hidden)?;
        if let Some(bias) = &tensor.bias {
            self.error(ModelError::UnknownTensor(bias.name().to_owned()));
        }
        let half = |first: u32| {
            let range = RowRange { first: first.into(), count: inner.into(), stride: 2 * u64::from(inner) };
            Some(Linear { matrix: ranged(&tensor.matrix, range)?, bias: None })
        };
        Some(gate_up(half(0)?, half(inner)?))
    }

    fn error(&self, error: ModelError) {
        self.errors.borrow_mut().push(error);
    }

    fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    fn tensor(&self, name: &str, shape: &[u64]) -> Option<&'a TensorInfo> {
        let Some(tensor) = self.gguf.tensor(name) else {
            self.error(ModelError::MissingTensor(name.to_owned()));
            return None;
        };
        self.taken.borrow_mut().insert(&tensor.name);
        // [n] and [n, 1] are the same.
        let trimmed = |s: &[u64]| s.iter().rposition(|n| *n != 1).map_or(0, |last| last + 1);
        if tensor.shape[..trimmed(&tensor.shape)] != shape[..trimmed(shape)] {
            let (found, expected) = (tensor.shape.clone(), shape[..trimmed(shape).max(1)].to_vec());
            self.error(ModelError::Shape { name: name.to_owned(), found, expected });
            return None;
        }
        Some(tensor)
    }

    fn vector(&self, name: &str, len: u32) -> Option<VectorInfo<'a>> {
        Some(VectorInfo { tensors: vec![self.tensor(name, &[u64::from(len)])?], scale: 1.0 })
    }

    /// Returns a vector, which may be absent; `None` if an error was noted.
    fn optional_vector(&self, name: &str, len: u32) -> Option<Option<VectorInfo<'a>>> {
        if self.has(name) { self.vector(name, len).map(Some) } else { Some(None) }
    }

    fn linear(&self, name: &str, n: u32, k: u32) -> Option<Linear<'a>> {
        self.stack(name, 1, n, k)
    }

    fn matrix(&self, name: &str, n: u32, k: u32) -> Option<MatrixInfo<'a>> {
        self.matrices(name, 1, n, k)
    }

    /// Returns a matrix for each expert, with perhaps a bias each.
    fn stack(&self, name: &str, experts: u32, n: u32, k: u32) -> Option<Linear<'a>> {
        let matrix = self.matrices(&format!("{name}.weight"), experts, n, k);
        let bias = self.optional_vector_of(&format!("{name}.bias"), &[n, experts]);
        Some(Linear { matrix: matrix?, bias: bias? })
    }

    fn optional_vector_of(&self, name: &str, shape: &[u32]) -> Option<Option<VectorInfo<'a>>> {
        if !self.has(name) {
            return Some(None);
        }
        let shape: Vec<u64> = shape.iter().map(|n| u64::from(*n)).collect();
        Some(Some(VectorInfo { tensors: vec![self.tensor(name, &shape)?], scale: 1.0 }))
    }

    /// Returns the factors of an NVFP4 tensor, of which some files have one for each expert; `None` if an error was noted. The
    /// scales of activations beside them are for kernels that multiply in four bits.
    fn scales(&self, tensor: &TensorInfo, experts: u32) -> Option<Option<&'a TensorInfo>> {
        let Some(base) = tensor.name.strip_suffix(".weight").filter(|_| tensor.ty == WeightType::NVFP4) else {
            return Some(None);
        };
        let find = |name: &str| {
            let name = format!("{base}.{name}");
            if self.has(&name) { self.tensor(&name, &[u64::from(experts)]).map(Some) } else { Some(None) }
        };
        find("input_scale")?;
        let scales = find("scale")?;
        if let Some(scales) = scales.filter(|scales| scales.ty != WeightType::F32) {
            self.error(ModelError::UnknownTensor(scales.name.clone()));
            return None;
        }
        Some(scales)
    }

    fn matrices(&self, name: &str, experts: u32, n: u32, k: u32) -> Option<MatrixInfo<'a>> {
        let tensor = self.tensor(name, &[k, n, experts].map(u64::from))?;
        let (k, rows) = (u64::from(k), u64::from(experts) * u64::from(n));
        let Some(planes) = Planes::new(tensor.ty, rows, k) else {
            self.error(ModelError::RowLength { name: tensor.name.clone(), k });
            return None;
        };
        let rows = vec![TensorRows { tensor, range: RowRange::all(rows), scales: self.scales(tensor, experts)? }];
        Some(MatrixInfo { rows, join: Join::Concat, planes, n, experts })
    }
}

/// Returns a range of the rows of each expert of a matrix that is one tensor.
fn ranged<'a>(whole: &MatrixInfo<'a>, range: RowRange) -> Option<MatrixInfo<'a>> {
    let first = whole.rows.first()?;
    let planes = Planes::new(whole.planes.ty(), range.count * u64::from(whole.experts), whole.planes.k())?;
    Some(MatrixInfo { rows: vec![TensorRows { range, ..*first }], planes, n: range.count as u32, ..whole.clone() })
}

/// Joins adjacent matrices of one format, all with a bias or all without: their input is the same.
fn joined(linears: Vec<Linear<'_>>) -> Vec<Linear<'_>> {
    let mut all: Vec<Linear<'_>> = Vec::new();
    for linear in linears {
        let last = all.last_mut().filter(|last| last.bias.is_some() == linear.bias.is_some());
        let both = last.as_ref().map(|last| last.matrix.planes).filter(|last| last.ty() == linear.matrix.planes.ty());
        let both = both.and_then(|b| Planes::new(b.ty(), b.rows() + linear.matrix.planes.rows(), b.k()));
        match (last, both) {
            (Some(last), Some(planes)) => {
                last.matrix.rows.extend(linear.matrix.rows);
                (last.matrix.planes, last.matrix.n) = (planes, last.matrix.n + linear.matrix.n);
                if let (Some(bias), Some(next)) = (&mut last.bias, linear.bias) {
                    bias.tensors.extend(next.tensors);
                }
            }
            _ => all.push(linear),
        }
    }
    all
}

/// Joins gate and up if they have one format and no biases.
fn gate_up<'a>(gate: Linear<'a>, up: Linear<'a>) -> GateUp<'a> {
    let planes = &gate.matrix.planes;
    let fused = Planes::new(planes.ty(), 2 * planes.rows(), planes.k());
    match fused.filter(|_| *planes == up.matrix.planes && gate.bias.is_none() && up.bias.is_none()) {
        Some(planes) => {
            let rows = [gate.matrix.rows, up.matrix.rows].concat();
            let (n, experts) = (2 * gate.matrix.n, gate.matrix.experts);
            GateUp::Fused(MatrixInfo { rows, join: Join::Interleaved, planes, n, experts })
        }
        None => GateUp::Separate { gate, up },
    }
}
