//! The tensors of a file, found by name and checked against the model's shape before anything is uploaded.

use std::cell::Cell;

use super::{
    Config, FeedForward, ModelError,
    tree::{self, FeedForwardTree, GateUp, ModelTree, QkNorm},
};
use crate::{
    gguf::{Gguf, TensorInfo},
    quant::Planes,
};

/// A weight matrix `[n, k]`, or one for each expert: the rows of one tensor, or of several.
#[derive(Clone, Debug)]
pub(crate) struct MatrixInfo<'a> {
    pub(crate) tensors: Vec<&'a TensorInfo>,
    pub(crate) join: Join,
    pub(crate) planes: Planes,
    pub(crate) n: u32,
    pub(crate) experts: u32,
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
        self.tensors.first().map_or("", |tensor| &tensor.name)
    }

    /// Returns the number of rows that must stay in one buffer: an expert's matrix, or a row of gate and one of up.
    pub(crate) fn step(&self) -> u32 {
        match self.join {
            _ if self.experts > 1 => self.n,
            Join::Concat => 1,
            Join::Interleaved => self.tensors.len() as u32,
        }
    }
}

/// A vector: the elements of one tensor, or of several, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct VectorInfo<'a> {
    pub(crate) tensors: Vec<&'a TensorInfo>,
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

/// The tensors of a file.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    pub(crate) tree: ModelTree<MatrixInfo<'a>, VectorInfo<'a>>,
    /// The divisors of RoPE's frequencies.
    pub(crate) rope_freqs: Option<VectorInfo<'a>>,
}

impl<'a> Tensors<'a> {
    /// Finds all tensors.
    ///
    /// # Errors
    /// [`ModelError`] for one that is missing, has another shape, or should not be there.
    pub(crate) fn find(gguf: &'a Gguf, config: &Config) -> Result<Self, ModelError> {
        let find = Find { gguf, taken: Cell::new(0) };
        let (hidden, q_len) = (config.hidden, config.q_len());
        let embedding = find.matrix("token_embd.weight", config.vocab, hidden)?;
        let mut layers = Vec::new();
        for i in 0..config.layers {
            layers.push(find.layer(&format!("blk.{i}."), config, hidden, q_len)?);
        }
        let output_norm = find.vector("output_norm.weight", hidden)?;
        let output = match gguf.tensor("output.weight") {
            Some(_) => Some(find.matrix("output.weight", config.vocab, hidden)?),
            None => None,
        };
        let rope_freqs = find.optional_vector("rope_freqs.weight", config.head_dim / 2)?;
        let tensors = Self { tree: ModelTree { embedding, layers, output_norm, output }, rope_freqs };
        if find.taken.get() < gguf.tensors().len() {
            let known = tensors.names();
            let unknown = gguf.tensors().iter().find(|t| !known.contains(t.name.as_str()));
            return Err(ModelError::UnknownTensor(unknown.map(|t| t.name.clone()).unwrap_or_default()));
        }
        Ok(tensors)
    }

    /// Returns every matrix.
    pub(crate) fn matrices(&self) -> Vec<&MatrixInfo<'a>> {
        self.tree.matrices()
    }

    /// Returns every vector.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = &VectorInfo<'a>> {
        self.tree.vectors().into_iter().chain(&self.rope_freqs)
    }

    fn names(&self) -> std::collections::HashSet<&'a str> {
        let matrices = self.matrices().into_iter().flat_map(|matrix| &matrix.tensors);
        let vectors = self.vectors().flat_map(|vector| &vector.tensors);
        matrices.chain(vectors).map(|tensor| tensor.name.as_str()).collect()
    }
}

struct Find<'a> {
    gguf: &'a Gguf,
    /// The number of tensors found so far: each is looked up once.
    taken: Cell<usize>,
}

impl<'a> Find<'a> {
    fn layer(&self, p: &str, config: &Config, hidden: u32, q_len: u32) -> Result<Layer<'a>, ModelError> {
        let kv_len = config.kv_len();
        let name = |rest: &str| format!("{p}{rest}");
        let q_norm = self.optional_vector(&name("attn_q_norm.weight"), config.head_dim)?;
        let k_norm = self.optional_vector(&name("attn_k_norm.weight"), config.head_dim)?;
        let qk_norm = match (q_norm, k_norm) {
            (Some(q), Some(k)) => {
                let both = VectorInfo { tensors: [&q.tensors[..], &k.tensors[..]].concat() };
                Some(QkNorm { both, key: k })
            }
            (None, None) if config.architecture == super::Architecture::Llama => None,
            (Some(_), None) => return Err(ModelError::MissingTensor(name("attn_k_norm.weight"))),
            (None, _) => return Err(ModelError::MissingTensor(name("attn_q_norm.weight"))),
        };
        Ok(Layer {
            attn_norm: self.vector(&name("attn_norm.weight"), hidden)?,
            qkv: joined([
                self.linear(&name("attn_q"), q_len, hidden)?,
                self.linear(&name("attn_k"), kv_len, hidden)?,
                self.linear(&name("attn_v"), kv_len, hidden)?,
            ]),
            o: self.linear(&name("attn_output"), hidden, q_len)?,
            qk_norm,
            ffn_norm: self.vector(&name("ffn_norm.weight"), hidden)?,
            feed_forward: match config.feed_forward {
                FeedForward::Dense { inner } => FeedForwardTree {
                    router: None,
                    gate_up: gate_up(
                        self.linear(&name("ffn_gate"), inner, hidden)?,
                        self.linear(&name("ffn_up"), inner, hidden)?,
                    ),
                    down: self.linear(&name("ffn_down"), hidden, inner)?,
                },
                FeedForward::Experts { count, inner, .. } => FeedForwardTree {
                    router: Some(self.matrix(&name("ffn_gate_inp.weight"), count, hidden)?),
                    gate_up: gate_up(
                        self.experts(&name("ffn_gate_exps.weight"), count, inner, hidden)?,
                        self.experts(&name("ffn_up_exps.weight"), count, inner, hidden)?,
                    ),
                    down: self.experts(&name("ffn_down_exps.weight"), count, hidden, inner)?,
                },
            },
        })
    }

    fn tensor(&self, name: &str, shape: &[u64]) -> Result<&'a TensorInfo, ModelError> {
        let tensor = self.gguf.tensor(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
        // [n] and [n, 1] are the same.
        let trimmed = |s: &[u64]| s.iter().rposition(|n| *n != 1).map_or(0, |last| last + 1);
        if tensor.shape[..trimmed(&tensor.shape)] != shape[..trimmed(shape)] {
            let (found, expected) = (tensor.shape.clone(), shape.to_vec());
            return Err(ModelError::Shape { name: name.to_owned(), found, expected });
        }
        self.taken.set(self.taken.get() + 1);
        Ok(tensor)
    }

    fn vector(&self, name: &str, len: u32) -> Result<VectorInfo<'a>, ModelError> {
        Ok(VectorInfo { tensors: vec![self.tensor(name, &[u64::from(len)])?] })
    }

    fn optional_vector(&self, name: &str, len: u32) -> Result<Option<VectorInfo<'a>>, ModelError> {
        self.gguf.tensor(name).is_some().then(|| self.vector(name, len)).transpose()
    }

    fn linear(&self, name: &str, n: u32, k: u32) -> Result<Linear<'a>, ModelError> {
        Ok(Linear {
            matrix: self.matrix(&format!("{name}.weight"), n, k)?,
            bias: self.optional_vector(&format!("{name}.bias"), n)?,
        })
    }

    fn matrix(&self, name: &str, n: u32, k: u32) -> Result<MatrixInfo<'a>, ModelError> {
        self.stack(self.tensor(name, &[u64::from(k), u64::from(n)])?, 1, n, k)
    }

    fn experts(&self, name: &str, experts: u32, n: u32, k: u32) -> Result<Linear<'a>, ModelError> {
        let matrix = self.stack(self.tensor(name, &[k, n, experts].map(u64::from))?, experts, n, k)?;
        Ok(Linear { matrix, bias: None })
    }

    fn stack(&self, tensor: &'a TensorInfo, experts: u32, n: u32, k: u32) -> Result<MatrixInfo<'a>, ModelError> {
        let k = u64::from(k);
        let planes = Planes::new(tensor.ty, u64::from(experts) * u64::from(n), k)
            .ok_or_else(|| ModelError::RowLength { name: tensor.name.clone(), k })?;
        Ok(MatrixInfo { tensors: vec![tensor], join: Join::Concat, planes, n, experts })
    }
}

/// Joins adjacent matrices of one format without biases: their input is the same.
fn joined<'a>(linears: [Linear<'a>; 3]) -> Vec<Linear<'a>> {
    let mut all: Vec<Linear<'a>> = Vec::new();
    for linear in linears {
        let last =
            all.last_mut().filter(|last| last.bias.is_none() && linear.bias.is_none()).map(|last| &mut last.matrix);
        let both = last.as_ref().map(|last| last.planes).filter(|last| last.ty() == linear.matrix.planes.ty());
        let both = both.and_then(|b| Planes::new(b.ty(), b.rows() + linear.matrix.planes.rows(), b.k()));
        match (last, both) {
            (Some(last), Some(planes)) => {
                last.tensors.extend(linear.matrix.tensors);
                (last.planes, last.n) = (planes, last.n + linear.matrix.n);
            }
            _ => all.push(linear),
        }
    }
    all
}

/// Joins gate and up if they have one format and no biases.
fn gate_up<'a>(gate: Linear<'a>, up: Linear<'a>) -> tree::GateUp<MatrixInfo<'a>, VectorInfo<'a>> {
    let planes = &gate.matrix.planes;
    let fused = Planes::new(planes.ty(), 2 * planes.rows(), planes.k());
    match fused.filter(|_| *planes == up.matrix.planes && gate.bias.is_none() && up.bias.is_none()) {
        Some(planes) => {
            let tensors = [gate.matrix.tensors, up.matrix.tensors].concat();
            let (n, experts) = (2 * gate.matrix.n, gate.matrix.experts);
            GateUp::Fused(MatrixInfo { tensors, join: Join::Interleaved, planes, n, experts })
        }
        None => GateUp::Separate { gate, up },
    }
}
