//! The tensors of a model, looked up by name and checked against its shape before anything is uploaded.

use std::cell::Cell;

use super::{Config, FeedForward, ModelError};
use crate::{
    gguf::{Gguf, TensorInfo},
    quant::Planes,
};

/// A weight matrix `[n, k]`, or one for each expert. Its rows are those of one tensor, or of several.
#[derive(Clone, Debug)]
pub(crate) struct MatrixInfo<'a> {
    pub(crate) tensors: Vec<&'a TensorInfo>,
    pub(crate) join: Join,
    pub(crate) planes: Planes,
    pub(crate) n: u32,
    pub(crate) experts: u32,
}

/// How a matrix has the rows of several tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// All of one, then all of the next.
    Concat,
    /// A row of each in turn.
    Interleaved,
}

impl MatrixInfo<'_> {
    /// What to call it.
    pub(crate) fn name(&self) -> &str {
        self.tensors.first().map_or("", |tensor| &tensor.name)
    }

    /// Rows that must stay in one buffer: a matrix of a stack, and gate and value.
    pub(crate) fn step(&self) -> u32 {
        match self.join {
            _ if self.experts > 1 => self.n,
            Join::Concat => 1,
            Join::Interleaved => self.tensors.len() as u32,
        }
    }
}

/// A matrix and the bias that some files add to its output.
#[derive(Clone, Debug)]
pub(crate) struct LinearInfo<'a> {
    pub(crate) matrix: MatrixInfo<'a>,
    pub(crate) bias: Option<&'a TensorInfo>,
}

#[derive(Debug)]
pub(crate) struct FeedForwardInfo<'a> {
    /// `None` for a dense block.
    pub(crate) router: Option<MatrixInfo<'a>>,
    pub(crate) gate_up: GateUpInfo<'a>,
    pub(crate) down: LinearInfo<'a>,
}

/// The gate and what it gates.
#[derive(Debug)]
pub(crate) enum GateUpInfo<'a> {
    /// One matrix of gates and values in turn: for tensors of one format without biases.
    Fused(MatrixInfo<'a>),
    /// A matrix each.
    Separate { gate: LinearInfo<'a>, up: LinearInfo<'a> },
}

#[derive(Debug)]
pub(crate) struct LayerInfo<'a> {
    pub(crate) attn_norm: &'a TensorInfo,
    /// The projections to query, key and value heads in this order, those side by side that have one format in one matrix.
    pub(crate) qkv: Vec<LinearInfo<'a>>,
    pub(crate) o: LinearInfo<'a>,
    /// The norms of query and key heads.
    pub(crate) qk_norm: Option<[&'a TensorInfo; 2]>,
    pub(crate) ffn_norm: &'a TensorInfo,
    pub(crate) feed_forward: FeedForwardInfo<'a>,
}

/// All tensors of a model.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    pub(crate) embedding: MatrixInfo<'a>,
    pub(crate) layers: Vec<LayerInfo<'a>>,
    pub(crate) output_norm: &'a TensorInfo,
    /// `None` where the embedding is the head too.
    pub(crate) output: Option<MatrixInfo<'a>>,
    /// What RoPE's frequencies are divided by.
    pub(crate) rope_freqs: Option<&'a TensorInfo>,
}

impl<'a> Tensors<'a> {
    /// Looks all tensors up.
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
        let tensors = Self {
            embedding,
            layers,
            output_norm: find.vector("output_norm.weight", hidden)?,
            output: match gguf.tensor("output.weight") {
                Some(_) => Some(find.matrix("output.weight", config.vocab, hidden)?),
                None => None,
            },
            rope_freqs: find.optional_vector("rope_freqs.weight", config.head_dim / 2)?,
        };
        if find.taken.get() < gguf.tensors().len() {
            let known = tensors.names();
            let unknown = gguf.tensors().iter().find(|t| !known.contains(t.name.as_str()));
            return Err(ModelError::UnknownTensor(unknown.map(|t| t.name.clone()).unwrap_or_default()));
        }
        Ok(tensors)
    }

    /// Every matrix.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &MatrixInfo<'a>> {
        let layers = self.layers.iter().flat_map(|layer| {
            let attention = layer.qkv.iter().chain([&layer.o]).map(|l| &l.matrix);
            let FeedForwardInfo { router, gate_up, down } = &layer.feed_forward;
            let gate_up = match gate_up {
                GateUpInfo::Fused(fused) => vec![fused],
                GateUpInfo::Separate { gate, up } => vec![&gate.matrix, &up.matrix],
            };
            attention.chain(router).chain(gate_up).chain([&down.matrix])
        });
        [&self.embedding].into_iter().chain(&self.output).chain(layers)
    }

    /// Every vector.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = &'a TensorInfo> {
        let layers = self.layers.iter().flat_map(|layer| {
            let mut linears: Vec<_> = layer.qkv.iter().chain([&layer.o, &layer.feed_forward.down]).collect();
            if let GateUpInfo::Separate { gate, up } = &layer.feed_forward.gate_up {
                linears.extend([gate, up]);
            }
            let biases: Vec<_> = linears.into_iter().filter_map(|l| l.bias).collect();
            [layer.attn_norm, layer.ffn_norm].into_iter().chain(layer.qk_norm.into_iter().flatten()).chain(biases)
        });
        [self.output_norm].into_iter().chain(self.rope_freqs).chain(layers)
    }

    fn names(&self) -> std::collections::HashSet<&'a str> {
        self.matrices().flat_map(|m| m.tensors.iter().copied()).chain(self.vectors()).map(|t| t.name.as_str()).collect()
    }
}

struct Find<'a> {
    gguf: &'a Gguf,
    /// Tensors found so far: each is asked for once.
    taken: Cell<usize>,
}

impl<'a> Find<'a> {
    fn layer(&self, p: &str, config: &Config, hidden: u32, q_len: u32) -> Result<LayerInfo<'a>, ModelError> {
        let kv_len = config.kv_len();
        let name = |rest: &str| format!("{p}{rest}");
        let q_norm = self.optional_vector(&name("attn_q_norm.weight"), config.head_dim)?;
        let k_norm = self.optional_vector(&name("attn_k_norm.weight"), config.head_dim)?;
        let qk_norm = match (q_norm, k_norm) {
            (Some(q), Some(k)) => Some([q, k]),
            (None, None) if config.architecture == super::Architecture::Llama => None,
            (Some(_), None) => return Err(ModelError::MissingTensor(name("attn_k_norm.weight"))),
            (None, _) => return Err(ModelError::MissingTensor(name("attn_q_norm.weight"))),
        };
        Ok(LayerInfo {
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
                FeedForward::Dense { inner } => FeedForwardInfo {
                    router: None,
                    gate_up: gate_up(
                        self.linear(&name("ffn_gate"), inner, hidden)?,
                        self.linear(&name("ffn_up"), inner, hidden)?,
                    ),
                    down: self.linear(&name("ffn_down"), hidden, inner)?,
                },
                FeedForward::Experts { count, inner, .. } => FeedForwardInfo {
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
        // Trailing ones say nothing: [n] and [n, 1] are the same.
        let trimmed = |s: &[u64]| s.iter().rposition(|n| *n != 1).map_or(0, |last| last + 1);
        if tensor.shape[..trimmed(&tensor.shape)] != shape[..trimmed(shape)] {
            let (found, expected) = (tensor.shape.clone(), shape.to_vec());
            return Err(ModelError::Shape { name: name.to_owned(), found, expected });
        }
        self.taken.set(self.taken.get() + 1);
        Ok(tensor)
    }

    fn vector(&self, name: &str, len: u32) -> Result<&'a TensorInfo, ModelError> {
        self.tensor(name, &[u64::from(len)])
    }

    fn optional_vector(&self, name: &str, len: u32) -> Result<Option<&'a TensorInfo>, ModelError> {
        self.gguf.tensor(name).is_some().then(|| self.vector(name, len)).transpose()
    }

    fn linear(&self, name: &str, n: u32, k: u32) -> Result<LinearInfo<'a>, ModelError> {
        Ok(LinearInfo {
            matrix: self.matrix(&format!("{name}.weight"), n, k)?,
            bias: self.optional_vector(&format!("{name}.bias"), n)?,
        })
    }

    fn matrix(&self, name: &str, n: u32, k: u32) -> Result<MatrixInfo<'a>, ModelError> {
        self.stack(self.tensor(name, &[u64::from(k), u64::from(n)])?, 1, n, k)
    }

    fn experts(&self, name: &str, experts: u32, n: u32, k: u32) -> Result<LinearInfo<'a>, ModelError> {
        let matrix = self.stack(self.tensor(name, &[k, n, experts].map(u64::from))?, experts, n, k)?;
        Ok(LinearInfo { matrix, bias: None })
    }

    fn stack(&self, tensor: &'a TensorInfo, experts: u32, n: u32, k: u32) -> Result<MatrixInfo<'a>, ModelError> {
        let k = u64::from(k);
        let planes = Planes::new(tensor.ty, u64::from(experts) * u64::from(n), k)
            .ok_or_else(|| ModelError::RowLength { name: tensor.name.clone(), k })?;
        Ok(MatrixInfo { tensors: vec![tensor], join: Join::Concat, planes, n, experts })
    }
}

/// Matrices of the same input, those of one format side by side as one. One with a bias stays alone.
fn joined<'a>(linears: [LinearInfo<'a>; 3]) -> Vec<LinearInfo<'a>> {
    let mut all: Vec<LinearInfo<'a>> = Vec::new();
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

/// Gate and up as one matrix if they can be.
fn gate_up<'a>(gate: LinearInfo<'a>, up: LinearInfo<'a>) -> GateUpInfo<'a> {
    let planes = &gate.matrix.planes;
    let fused = Planes::new(planes.ty(), 2 * planes.rows(), planes.k());
    match fused.filter(|_| *planes == up.matrix.planes && gate.bias.is_none() && up.bias.is_none()) {
        Some(planes) => {
            let tensors = [gate.matrix.tensors, up.matrix.tensors].concat();
            let (n, experts) = (2 * gate.matrix.n, gate.matrix.experts);
            GateUpInfo::Fused(MatrixInfo { tensors, join: Join::Interleaved, planes, n, experts })
        }
        None => GateUpInfo::Separate { gate, up },
    }
}
