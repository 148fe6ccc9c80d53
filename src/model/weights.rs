//! A model's weights in device memory, quantised as in the file.

use std::{ops::Range, sync::Arc};

use super::{
    Config, ModelError,
    expert_cache::{CachedMatrix, ExpertCache},
    file_rows::FileRows,
    split::{Part, split},
    tensors::{FeedForwardInfo, GateUpInfo, LinearInfo, MatrixInfo, Tensors},
};
use crate::{
    gguf::{Gguf, TensorInfo},
    gpu::{Buffer, Device, GpuError},
    quant::{Planes, ROW_STEP, WeightType, decode},
};

/// A matrix of `n` rows of `k` weights, or one after the other those of experts, in as many buffers as the device's limits
/// call for.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) parts: Vec<MatrixPart>,
    pub(crate) n: u32,
    pub(crate) k: u32,
}

/// A run of a [`Matrix`]'s rows; of a stack's, whole experts.
#[derive(Clone, Debug)]
pub(crate) struct MatrixPart {
    pub(crate) words: Buffer<[u32; 4]>,
    pub(crate) planes: Planes,
    pub(crate) first_row: u32,
}

impl MatrixPart {
    /// Sends `from` of a file's rows, to row `at` of the part and on, telling of the bytes of each slice.
    pub(super) async fn fill(
        &self,
        device: &Device,
        rows: &FileRows,
        from: Range<u64>,
        at: u64,
        mut sent: impl FnMut(u64),
    ) -> Result<(), ModelError> {
        let step = (SLICE / self.planes.file_row_bytes() / ROW_STEP).max(1) * ROW_STEP;
        for start in from.clone().step_by(step as usize) {
            let slice = start..from.end.min(start + step);
            let raw = rows.get(slice.clone())?;
            for plane in self.planes.pack(at + start - from.start, &raw) {
                device.write(&self.words, plane.start, &plane.words).await?;
            }
            sent(raw.len() as u64);
            rows.release(slice);
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) matrix: Matrix,
    pub(crate) bias: Option<Buffer<f32>>,
}

#[derive(Debug)]
pub(crate) struct FeedForwardWeights {
    /// `None` for a dense block.
    pub(crate) router: Option<Matrix>,
    pub(crate) gate_up: GateUp,
    pub(crate) down: Linear,
}

/// The gate and what it gates.
#[derive(Debug)]
pub(crate) enum GateUp {
    /// One matrix of gates and values in turn.
    Fused(Matrix),
    Separate {
        gate: Linear,
        up: Linear,
    },
}

/// The norms of query and key heads.
#[derive(Debug)]
pub(crate) struct QkNorm {
    /// `[2, head_dim]`: query heads, key heads.
    pub(crate) both: Buffer<f32>,
    /// `[head_dim]`: key heads.
    pub(crate) key: Buffer<f32>,
}

#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attn_norm: Buffer<f32>,
    /// To query, key and value heads, in this order.
    pub(crate) qkv: Vec<Linear>,
    pub(crate) o: Linear,
    pub(crate) qk_norm: Option<QkNorm>,
    pub(crate) ffn_norm: Buffer<f32>,
    pub(crate) feed_forward: FeedForwardWeights,
}

#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) output_norm: Buffer<f32>,
    /// `None` where the embedding is the head too.
    pub(crate) output: Option<Matrix>,
    /// RoPE's frequencies `[head_dim / 2]`, in radians a position.
    pub(crate) rope_frequencies: Vec<f64>,
    /// Where the experts come from that are not on the device, if not all are.
    pub(crate) expert_cache: Option<Arc<ExpertCache>>,
}

impl Weights {
    /// The formats of its matrices, and how many have each.
    pub(crate) fn formats(&self) -> String {
        let mut counts: Vec<(WeightType, usize)> = Vec::new();
        for part in self.all().0.into_iter().flat_map(|matrix| &matrix.parts) {
            let ty = part.planes.ty();
            match counts.iter_mut().find(|(known, _)| *known == ty) {
                Some((_, count)) => *count += 1,
                None => counts.push((ty, 1)),
            }
        }
        counts.into_iter().map(|(ty, count)| format!("{count} {ty}")).collect::<Vec<_>>().join(" ")
    }

    /// The ids of all its buffers.
    pub(crate) fn buffers(&self) -> Vec<u64> {
        let (matrices, vectors) = self.all();
        let parts = matrices.into_iter().flat_map(|matrix| &matrix.parts);
        parts.map(|part| part.words.raw.id).chain(vectors.into_iter().map(|vector| vector.raw.id)).collect()
    }

    /// All its matrices and vectors.
    fn all(&self) -> (Vec<&Matrix>, Vec<&Buffer<f32>>) {
        let mut vectors = vec![&self.output_norm];
        let mut matrices = vec![&self.embedding];
        matrices.extend(&self.output);
        for layer in &self.layers {
            vectors.extend([&layer.attn_norm, &layer.ffn_norm]);
            vectors.extend(layer.qk_norm.iter().flat_map(|norm| [&norm.both, &norm.key]));
            let FeedForwardWeights { router, gate_up, down } = &layer.feed_forward;
            matrices.extend(router);
            let mut linears: Vec<_> = layer.qkv.iter().chain([&layer.o, down]).collect();
            match gate_up {
                GateUp::Fused(matrix) => matrices.push(matrix),
                GateUp::Separate { gate, up } => linears.extend([gate, up]),
            }
            matrices.extend(linears.iter().map(|linear| &linear.matrix));
            vectors.extend(linears.iter().filter_map(|linear| linear.bias.as_ref()));
        }
        (matrices, vectors)
    }
}

/// Bytes of a tensor that are packed and sent at a time.
const SLICE: u64 = 8 << 20;

/// Sends tensors to a device, counting the bytes of the file.
pub(crate) struct Upload<'a, P> {
    device: &'a Device,
    gguf: &'a Gguf,
    progress: P,
    sent: u64,
    /// Experts of each layer that there is room for, if not for all; and those of the layers until now.
    slots: Option<u32>,
    paged: Vec<Vec<CachedMatrix>>,
}

impl<'a, P: FnMut(u64)> Upload<'a, P> {
    /// `progress` is called with the number of bytes of the file that have been sent. With `slots`, experts are not: there is
    /// room for so many of each layer, and they are brought when they are chosen.
    pub(crate) fn new(device: &'a Device, gguf: &'a Gguf, slots: Option<u32>, progress: P) -> Self {
        Self { device, gguf, progress, sent: 0, slots, paged: Vec::new() }
    }

    /// Sends all of a model. Every size is checked against the device's limits before the first.
    pub(crate) async fn run(mut self, config: &Config, tensors: &Tensors<'_>) -> Result<Weights, ModelError> {
        for matrix in tensors.matrices() {
            self.parts(matrix, &self.planes(matrix)?)?;
        }
        let mut layers = Vec::new();
        for layer in &tensors.layers {
            let mut qkv = Vec::new();
            for linear in &layer.qkv {
                qkv.push(self.linear(linear).await?);
            }
            layers.push(LayerWeights {
                attn_norm: self.vector(layer.attn_norm).await?,
                qkv,
                o: self.linear(&layer.o).await?,
                qk_norm: match layer.qk_norm {
                    Some([q, k]) => {
                        let (queries, keys) = (self.values(q)?, self.values(k)?);
                        let both = self.device.upload(&q.name, &[&queries[..], &keys[..]].concat()).await?;
                        self.count(4 * queries.len() as u64);
                        Some(QkNorm { both, key: self.floats(&k.name, &keys).await? })
                    }
                    None => None,
                },
                ffn_norm: self.vector(layer.ffn_norm).await?,
                feed_forward: self.feed_forward(&layer.feed_forward).await?,
            });
        }
        Ok(Weights {
            embedding: self.matrix(&tensors.embedding).await?,
            layers,
            output_norm: self.vector(tensors.output_norm).await?,
            output: self.optional_matrix(tensors.output.as_ref()).await?,
            rope_frequencies: self.rope_frequencies(config, tensors.rope_freqs)?,
            expert_cache: self.slots.map(|slots| Arc::new(ExpertCache::new(slots, self.paged))),
        })
    }

    async fn feed_forward(&mut self, block: &FeedForwardInfo<'_>) -> Result<FeedForwardWeights, ModelError> {
        if self.slots.is_some() {
            self.paged.push(Vec::new());
        }
        Ok(FeedForwardWeights {
            router: self.optional_matrix(block.router.as_ref()).await?,
            gate_up: match &block.gate_up {
                GateUpInfo::Fused(fused) => GateUp::Fused(self.matrix(fused).await?),
                GateUpInfo::Separate { gate, up } => {
                    GateUp::Separate { gate: self.linear(gate).await?, up: self.linear(up).await? }
                }
            },
            down: self.linear(&block.down).await?,
        })
    }

    async fn optional_matrix(&mut self, info: Option<&MatrixInfo<'_>>) -> Result<Option<Matrix>, ModelError> {
        match info {
            Some(info) => Ok(Some(self.matrix(info).await?)),
            None => Ok(None),
        }
    }

    async fn linear(&mut self, linear: &LinearInfo<'_>) -> Result<Linear, ModelError> {
        let bias = match linear.bias {
            Some(bias) => Some(self.vector(bias).await?),
            None => None,
        };
        Ok(Linear { matrix: self.matrix(&linear.matrix).await?, bias })
    }

    async fn matrix(&mut self, info: &MatrixInfo<'_>) -> Result<Matrix, ModelError> {
        let planes = self.planes(info)?;
        let paged = planes != info.planes;
        let rows = FileRows::new(self.gguf, info);
        let mut parts = Vec::new();
        for Part { first_row, planes } in self.parts(info, &planes)? {
            let words = match paged {
                true => self.device.alloc(info.name(), planes.vec4s()).await?,
                false => self.device.alloc_mapped(info.name(), planes.vec4s()).await?,
            };
            let part = MatrixPart { words, planes, first_row: first_row as u32 };
            // What would be forgotten need not be read.
            if !paged && !self.device.is_dry_run() {
                let all = first_row..first_row + planes.rows();
                part.fill(self.device, &rows, all, 0, |bytes| {
                    self.sent += bytes;
                    (self.progress)(self.sent);
                })
                .await?;
            }
            self.device.unmap(&part.words)?;
            parts.push(part);
        }
        if let (true, Some(layer)) = (paged, self.paged.last_mut()) {
            layer.push(CachedMatrix { parts: parts.clone(), n: info.n.into(), rows });
        }
        Ok(Matrix { parts, n: info.n, k: info.planes.k() as u32 })
    }

    /// What the device holds of a matrix: all of it, or of experts as many as there are slots.
    fn planes(&self, info: &MatrixInfo<'_>) -> Result<Planes, ModelError> {
        let Some(slots) = self.slots.filter(|slots| info.experts > *slots) else { return Ok(info.planes) };
        let n = u64::from(info.n);
        Planes::new(info.planes.ty(), u64::from(slots) * n, info.planes.k())
            .filter(|_| n.is_multiple_of(ROW_STEP))
            .ok_or_else(|| ModelError::NotOffloadable { name: info.name().to_owned(), rows: n })
    }

    fn parts(&self, info: &MatrixInfo<'_>, planes: &Planes) -> Result<Vec<Part>, GpuError> {
        let (limit, step) = (self.device.caps().buffer_limit(), info.step());
        split(planes, step, limit).ok_or_else(|| GpuError::TooLarge {
            label: info.name().to_owned(),
            bytes: info.planes.file_row_bytes() * u64::from(step),
            limit,
        })
    }

    /// A vector's values: vectors are small, and kernels read them as f32 whatever the file has.
    fn values(&self, tensor: &TensorInfo) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0.0; tensor.elements() as usize];
        self.gguf.check_length()?;
        decode(tensor.ty, self.gguf.data(tensor), &mut values).map_err(|error| ModelError::BadValue {
            key: tensor.name.clone(),
            value: tensor.ty.to_string(),
            reason: error.to_string(),
        })?;
        Ok(values)
    }

    async fn vector(&mut self, tensor: &TensorInfo) -> Result<Buffer<f32>, ModelError> {
        let values = self.values(tensor)?;
        self.floats(&tensor.name, &values).await
    }

    async fn floats(&mut self, label: &str, values: &[f32]) -> Result<Buffer<f32>, ModelError> {
        self.count(size_of_val(values) as u64);
        Ok(self.device.upload(label, values).await?)
    }

    fn rope_frequencies(&self, config: &Config, divisors: Option<&TensorInfo>) -> Result<Vec<f64>, ModelError> {
        let divisors = divisors.map(|tensor| self.values(tensor)).transpose()?;
        let rope = &config.rope;
        Ok((0..config.head_dim / 2)
            .map(|i| {
                let frequency = rope.theta.powf(-2.0 * f64::from(i) / f64::from(config.head_dim)) / rope.factor;
                let divisor = divisors.as_ref().and_then(|d| d.get(i as usize));
                frequency / divisor.map_or(1.0, |d| f64::from(*d))
            })
            .collect())
    }

    fn count(&mut self, bytes: u64) {
        self.sent += bytes;
        (self.progress)(self.sent);
    }
}
