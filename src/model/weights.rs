//! A model's weights in device memory, quantised as in the file.

use super::{
    Config, ModelError,
    split::{Part, split},
    tensors::{FeedForwardInfo, LinearInfo, MatrixInfo, Tensors},
};
use crate::{
    gguf::{Gguf, TensorInfo},
    gpu::{Buffer, Device, GpuError},
    quant::{Planes, ROW_STEP, decode},
};

/// `experts` matrices of `n` rows of `k` weights, one after the other, in as many buffers as the device's limits call for.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) parts: Vec<MatrixPart>,
    pub(crate) n: u32,
    pub(crate) k: u32,
    pub(crate) experts: u32,
}

/// A run of a [`Matrix`]'s rows; of a stack's, whole experts.
#[derive(Debug)]
pub(crate) struct MatrixPart {
    pub(crate) words: Buffer<[u32; 4]>,
    pub(crate) planes: Planes,
    pub(crate) first_row: u32,
}

#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) matrix: Matrix,
    pub(crate) bias: Option<Buffer<f32>>,
}

#[derive(Debug)]
pub(crate) enum FeedForwardWeights {
    Dense { gate: Linear, up: Linear, down: Linear },
    Experts { router: Matrix, gate: Matrix, up: Matrix, down: Matrix },
}

#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attn_norm: Buffer<f32>,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    /// `[2, head_dim]`: query heads, key heads.
    pub(crate) qk_norm: Option<Buffer<f32>>,
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
}

/// Bytes of a tensor that are packed and sent at a time.
const SLICE: u64 = 8 << 20;

/// Sends tensors to a device, counting the bytes of the file.
pub(crate) struct Upload<'a> {
    device: &'a Device,
    gguf: &'a Gguf,
    progress: &'a mut dyn FnMut(u64),
    sent: u64,
}

impl<'a> Upload<'a> {
    /// `progress` is called with the number of bytes of the file that have been sent.
    pub(crate) fn new(device: &'a Device, gguf: &'a Gguf, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self { device, gguf, progress, sent: 0 }
    }

    /// Sends all of a model. Every size is checked against the device's limits before the first.
    pub(crate) async fn run(mut self, config: &Config, tensors: &Tensors<'_>) -> Result<Weights, ModelError> {
        for matrix in tensors.matrices() {
            self.parts(matrix)?;
        }
        let mut layers = Vec::new();
        for layer in &tensors.layers {
            layers.push(LayerWeights {
                attn_norm: self.vector(layer.attn_norm).await?,
                q: self.linear(&layer.q).await?,
                k: self.linear(&layer.k).await?,
                v: self.linear(&layer.v).await?,
                o: self.linear(&layer.o).await?,
                qk_norm: match layer.qk_norm {
                    Some([q, k]) => Some(self.floats(&q.name, &[self.values(q)?, self.values(k)?].concat()).await?),
                    None => None,
                },
                ffn_norm: self.vector(layer.ffn_norm).await?,
                feed_forward: match &layer.feed_forward {
                    FeedForwardInfo::Dense { gate, up, down } => FeedForwardWeights::Dense {
                        gate: self.linear(gate).await?,
                        up: self.linear(up).await?,
                        down: self.linear(down).await?,
                    },
                    FeedForwardInfo::Experts { router, gate, up, down } => FeedForwardWeights::Experts {
                        router: self.matrix(router).await?,
                        gate: self.matrix(gate).await?,
                        up: self.matrix(up).await?,
                        down: self.matrix(down).await?,
                    },
                },
            });
        }
        Ok(Weights {
            embedding: self.matrix(&tensors.embedding).await?,
            layers,
            output_norm: self.vector(tensors.output_norm).await?,
            output: match &tensors.output {
                Some(output) => Some(self.matrix(output).await?),
                None => None,
            },
            rope_frequencies: self.rope_frequencies(config, tensors.rope_freqs)?,
        })
    }

    async fn linear(&mut self, linear: &LinearInfo<'_>) -> Result<Linear, ModelError> {
        let bias = match linear.bias {
            Some(bias) => Some(self.vector(bias).await?),
            None => None,
        };
        Ok(Linear { matrix: self.matrix(&linear.matrix).await?, bias })
    }

    async fn matrix(&mut self, info: &MatrixInfo<'_>) -> Result<Matrix, ModelError> {
        let mut parts = Vec::new();
        for Part { first_row, planes } in self.parts(info)? {
            let words = self.device.alloc(&info.tensor.name, planes.vec4s()).await?;
            let row_bytes = planes.file_row_bytes();
            let start = (first_row * row_bytes) as usize;
            let raw = self.gguf.data(info.tensor).get(start..start + (planes.rows() * row_bytes) as usize);
            let slice_rows = (SLICE / row_bytes / ROW_STEP).max(1) * ROW_STEP;
            let mut row = 0;
            for slice in raw.unwrap_or_default().chunks((slice_rows * row_bytes) as usize) {
                for plane in planes.pack(row, slice) {
                    self.device.write(&words, plane.start, &plane.words).await?;
                }
                row += slice_rows;
                self.count(slice.len() as u64);
            }
            parts.push(MatrixPart { words, planes, first_row: first_row as u32 });
        }
        Ok(Matrix { parts, n: info.n, k: info.planes.k() as u32, experts: info.experts })
    }

    fn parts(&self, info: &MatrixInfo<'_>) -> Result<Vec<Part>, GpuError> {
        let limit = self.device.caps().buffer_limit();
        let step = if info.experts > 1 { info.n } else { 1 };
        split(&info.planes, step, limit).ok_or_else(|| GpuError::TooLarge {
            label: info.tensor.name.clone(),
            bytes: info.planes.vec4s() * 16 / info.planes.rows() * u64::from(step),
            limit,
        })
    }

    /// A vector's values: vectors are small, and kernels read them as f32 whatever the file has.
    fn values(&self, tensor: &TensorInfo) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0.0; tensor.elements() as usize];
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
