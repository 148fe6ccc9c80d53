//! The tensors of a model, looked up by name and checked against its shape before anything is uploaded.

use std::cell::Cell;

use super::{Config, FeedForward, ModelError};
use crate::{
    gguf::{Gguf, TensorInfo},
    quant::Planes,
};

/// A weight matrix of the file, `[experts · n, k]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixInfo<'a> {
    pub(crate) tensor: &'a TensorInfo,
    pub(crate) planes: Planes,
    pub(crate) n: u32,
    pub(crate) experts: u32,
}

/// A matrix and the bias that some files add to its output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearInfo<'a> {
    pub(crate) matrix: MatrixInfo<'a>,
    pub(crate) bias: Option<&'a TensorInfo>,
}

#[derive(Debug)]
pub(crate) enum FeedForwardInfo<'a> {
    Dense { gate: LinearInfo<'a>, up: LinearInfo<'a>, down: LinearInfo<'a> },
    Experts { router: MatrixInfo<'a>, gate: MatrixInfo<'a>, up: MatrixInfo<'a>, down: MatrixInfo<'a> },
}

#[derive(Debug)]
pub(crate) struct LayerInfo<'a> {
    pub(crate) attn_norm: &'a TensorInfo,
    pub(crate) q: LinearInfo<'a>,
    pub(crate) k: LinearInfo<'a>,
    pub(crate) v: LinearInfo<'a>,
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
            let attention = [&layer.q, &layer.k, &layer.v, &layer.o].map(|l| &l.matrix);
            let block: Vec<_> = match &layer.feed_forward {
                FeedForwardInfo::Dense { gate, up, down } => vec![&gate.matrix, &up.matrix, &down.matrix],
                FeedForwardInfo::Experts { router, gate, up, down } => vec![router, gate, up, down],
            };
            attention.into_iter().chain(block)
        });
        [&self.embedding].into_iter().chain(&self.output).chain(layers)
    }

    /// Every vector.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = &'a TensorInfo> {
        let layers = self.layers.iter().flat_map(|layer| {
            let mut linears = vec![&layer.q, &layer.k, &layer.v, &layer.o];
            if let FeedForwardInfo::Dense { gate, up, down } = &layer.feed_forward {
                linears.extend([gate, up, down]);
            }
            let biases: Vec<_> = linears.into_iter().filter_map(|l| l.bias).collect();
            [layer.attn_norm, layer.ffn_norm].into_iter().chain(layer.qk_norm.into_iter().flatten()).chain(biases)
        });
        [self.output_norm].into_iter().chain(self.rope_freqs).chain(layers)
    }

    fn names(&self) -> std::collections::HashSet<&'a str> {
        self.matrices().map(|m| m.tensor).chain(self.vectors()).map(|t| t.name.as_str()).collect()
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
            q: self.linear(&name("attn_q"), q_len, hidden)?,
            k: self.linear(&name("attn_k"), kv_len, hidden)?,
            v: self.linear(&name("attn_v"), kv_len, hidden)?,
            o: self.linear(&name("attn_output"), hidden, q_len)?,
            qk_norm,
            ffn_norm: self.vector(&name("ffn_norm.weight"), hidden)?,
            feed_forward: match config.feed_forward {
                FeedForward::Dense { inner } => FeedForwardInfo::Dense {
                    gate: self.linear(&name("ffn_gate"), inner, hidden)?,
                    up: self.linear(&name("ffn_up"), inner, hidden)?,
                    down: self.linear(&name("ffn_down"), hidden, inner)?,
                },
                FeedForward::Experts { count, inner, .. } => FeedForwardInfo::Experts {
                    router: self.matrix(&name("ffn_gate_inp.weight"), count, hidden)?,
                    gate: self.experts(&name("ffn_gate_exps.weight"), count, inner, hidden)?,
                    up: self.experts(&name("ffn_up_exps.weight"), count, inner, hidden)?,
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

    fn experts(&self, name: &str, experts: u32, n: u32, k: u32) -> Result<MatrixInfo<'a>, ModelError> {
        self.stack(self.tensor(name, &[k, n, experts].map(u64::from))?, experts, n, k)
    }

    fn stack(&self, tensor: &'a TensorInfo, experts: u32, n: u32, k: u32) -> Result<MatrixInfo<'a>, ModelError> {
        let k = u64::from(k);
        let planes = Planes::new(tensor.ty, u64::from(experts) * u64::from(n), k)
            .ok_or_else(|| ModelError::RowLength { name: tensor.name.clone(), k })?;
        Ok(MatrixInfo { tensor, planes, n, experts })
    }
}
