//! A model's weights in device memory, quantised as in the file.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use super::{
    Config, ModelError, Rope,
    expert_cache::{CachedMatrix, ExpertCache},
    file_rows::FileRows,
    split::{Part, split},
    tensor_rows::{MatrixInfo, TensorRows, VectorInfo},
    tensors::Tensors,
    tree::{self, MapTensors, ModelTree},
};
use crate::{
    gguf::Gguf,
    gpu::{Buffer, Device, GpuError},
    quant::{Planes, ROW_STEP, WeightType, decode},
};

/// A matrix of `n` rows of `k` weights, or one for each expert, in as many buffers as the device's limits require.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) parts: Vec<MatrixPart>,
    pub(crate) n: u32,
    pub(crate) k: u32,
}

/// Consecutive rows of a [`Matrix`]; of several experts', whole experts.
#[derive(Clone, Debug)]
pub(crate) struct MatrixPart {
    pub(crate) words: Buffer<[u32; 4]>,
    pub(crate) planes: Planes,
    pub(crate) first_row: u32,
}

impl MatrixPart {
    /// Writes the rows `from` of a file from row `at` of the part on. Calls `sent` with the bytes of each slice.
    pub(super) async fn fill(
        &self,
        device: &Device,
        rows: &FileRows,
        from: Range<u64>,
        at: u64,
        mut sent: impl FnMut(u64),
    ) -> Result<(), ModelError> {
        let step = rows.rows_at_once(ROW_STEP);
        let slice_at = |start: u64| start..from.end.min(start + step);
        let mut ahead = None;
        for start in from.clone().step_by(step as usize) {
            let slice = slice_at(start);
            let raw = match ahead.take() {
                Some(read) => ReadAhead::finish(read).await?,
                None => rows.get(slice.clone()).await?,
            };
            if !rows.is_in_memory() && slice.end < from.end {
                ahead = Some(ReadAhead::start(Box::pin(rows.get(slice_at(slice.end)))).await);
            }
            for plane in self.planes.pack_scaled(at + start - from.start, &raw, &rows.scales(slice.clone())) {
                device.write(&self.words, plane.start, &plane.words).await?;
            }
            sent(raw.len() as u64);
            rows.advise_dontneed(slice);
        }
        Ok(())
    }
}

pub(crate) type Linear = tree::Linear<Matrix, Buffer<f32>>;
pub(crate) type FeedForwardWeights = tree::FeedForwardTree<Matrix, Buffer<f32>>;
pub(crate) type AttentionWeights = tree::AttentionTree<Matrix, Buffer<f32>>;
pub(crate) type DeltaNetWeights = tree::DeltaNetTree<Matrix, Buffer<f32>>;
pub(crate) type LayerWeights = tree::Layer<Matrix, Buffer<f32>>;

/// The weights of a model on a device.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) tree: ModelTree<Matrix, Buffer<f32>>,
    /// The tables of [`Config::rope_tables`].
    pub(crate) rope_tables: Vec<RopeTable>,
    /// The cache of offloaded experts, if not all are on the device.
    pub(crate) expert_cache: Option<Arc<ExpertCache>>,
}

impl Weights {
    /// Returns the formats of its matrices, each with the number of buffers.
    pub(crate) fn formats(&self) -> String {
        let mut counts: Vec<(WeightType, usize)> = Vec::new();
        for part in self.tree.matrices().into_iter().flat_map(|matrix| &matrix.parts) {
            let ty = part.planes.ty();
            match counts.iter_mut().find(|(known, _)| *known == ty) {
                Some((_, count)) => *count += 1,
                None => counts.push((ty, 1)),
            }
        }
        counts.into_iter().map(|(ty, count)| format!("{count} {ty}")).collect::<Vec<_>>().join(" ")
    }

    /// Returns the ids of its buffers.
    pub(crate) fn buffers(&self) -> Vec<u64> {
        let parts = self.tree.matrices().into_iter().flat_map(|matrix| &matrix.parts);
        parts.map(|part| part.words.raw.id).chain(self.tree.vectors().iter().map(|vector| vector.raw.id)).collect()
    }
}

/// The frequencies of a head's pairs, and the factor of cosine and sine.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    /// In radians a position, of at most `head_dim / 2` pairs: the others are not rotated.
    pub(crate) frequencies: Vec<f64>,
    pub(crate) magnitude: f64,
}

/// A read that was started before its result is needed.
enum ReadAhead<F: Future> {
    Started(F),
    Done(F::Output),
}

impl<F: Future + Unpin> ReadAhead<F> {
    /// Polls a read once.
    async fn start(mut read: F) -> Self {
        let first = poll_fn(|context| Poll::Ready(Pin::new(&mut read).poll(context))).await;
        match first {
            Poll::Ready(result) => Self::Done(result),
            Poll::Pending => Self::Started(read),
        }
    }

    async fn finish(self) -> F::Output {
        match self {
            Self::Started(read) => read.await,
            Self::Done(result) => result,
        }
    }
}

/// Uploads tensors to a device, counting bytes.
pub(crate) struct Upload<'a, P> {
    device: &'a Device,
    gguf: &'a Gguf,
    progress: P,
    sent: u64,
    /// The slots of a layer's expert cache, if there is one, and the cached matrices of the layers so far.
    slots: Option<u32>,
    offloaded: Vec<Vec<CachedMatrix>>,
}

impl<'a, P: FnMut(u64)> Upload<'a, P> {
    /// Returns an upload that calls `progress` with the number of bytes sent so far. With `slots`, experts are not sent: each
    /// layer has a cache of so many.
    pub(crate) fn new(device: &'a Device, gguf: &'a Gguf, slots: Option<u32>, progress: P) -> Self {
        Self { device, gguf, progress, sent: 0, slots, offloaded: Vec::new() }
    }

    /// Uploads all tensors. Every size is checked against the device's limits before the first.
    pub(crate) async fn run(mut self, config: &Config, tensors: &Tensors<'_>) -> Result<Weights, ModelError> {
        for matrix in tensors.matrices() {
            self.parts(matrix, &self.planes(matrix)?)?;
        }
        let tree = &tensors.tree;
        let mut matrices = vec![self.matrix(&tree.embedding).await?];
        for layer in &tree.layers {
            if self.slots.is_some() {
                self.offloaded.push(Vec::new());
            }
            for info in layer.matrices() {
                matrices.push(self.matrix(info).await?);
            }
        }
        if let Some(output) = &tree.output {
            matrices.push(self.matrix(&output.matrix).await?);
        }
        let (mut vectors, mut copies) = (Vec::new(), Vec::new());
        for info in tree.vectors() {
            vectors.push(self.vector(info).await?);
        }
        for key in tree.layers.iter().filter_map(|layer| layer.head_norms()).map(|norm| &norm.key) {
            let values = self.values(key).await?;
            copies.push(self.device.upload(key.name(), &values).await?);
        }
        let mut uploaded = Uploaded { matrices: matrices.into(), vectors: vectors.into(), copies: copies.into() };
        Ok(Weights {
            tree: tree.try_map(&mut uploaded)?,
            rope_tables: self.rope_tables(config, tensors.rope_freqs.as_ref()).await?,
            expert_cache: self.slots.map(|slots| Arc::new(ExpertCache::new(slots, self.offloaded))),
        })
    }

    async fn matrix(&mut self, info: &MatrixInfo<'_>) -> Result<Matrix, ModelError> {
        let planes = self.planes(info)?;
        let offloaded = planes != info.planes;
        let rows = FileRows::new(self.gguf, info, self.device.is_dry_run()).await?;
        let mut parts = Vec::new();
        for Part { first_row, planes } in self.parts(info, &planes)? {
            let words = match offloaded {
                true => self.device.alloc(info.name(), planes.vec4s()).await?,
                false => self.device.alloc_mapped(info.name(), planes.vec4s()).await?,
            };
            let part = MatrixPart { words, planes, first_row: first_row as u32 };
            // A dry run has no memory to write to.
            if !offloaded && !self.device.is_dry_run() {
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
        if let (true, Some(layer)) = (offloaded, self.offloaded.last_mut()) {
            layer.push(CachedMatrix { parts: parts.clone(), n: info.n.into(), rows });
        }
        Ok(Matrix { parts, n: info.n, k: info.planes.k() as u32 })
    }

    /// Returns the part of a matrix that the device holds: all of it, or as many experts as there are slots.
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

    /// Returns a vector's elements as f32, which kernels read whatever the file's type. A dry run has zeros.
    async fn values(&self, info: &VectorInfo<'_>) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0.0; info.elements() as usize];
        if self.device.is_dry_run() {
            return Ok(values);
        }
        let mut rest = &mut values[..];
        for TensorRows { tensor, range, .. } in &info.parts {
            let (own, others) = rest.split_at_mut(range.count as usize);
            let mut all = vec![0.0; tensor.elements() as usize];
            let bytes = self.gguf.read_data(tensor, 0..tensor.bytes).await?;
            decode(tensor.ty, &bytes, &mut all).map_err(|error| ModelError::BadValue {
                key: tensor.name.clone(),
                value: tensor.ty.to_string(),
                reason: error.to_string(),
            })?;
            own.copy_from_slice(&all[range.first as usize..][..range.count as usize]);
            rest = others;
        }
        if info.scale != 1.0 {
            values.iter_mut().for_each(|value| *value = (f64::from(*value) * info.scale) as f32);
        }
        Ok(values)
    }

    async fn vector(&mut self, info: &VectorInfo<'_>) -> Result<Buffer<f32>, ModelError> {
        let values = self.values(info).await?;
        self.sent += size_of_val(&values[..]) as u64;
        (self.progress)(self.sent);
        Ok(self.device.upload(info.name(), &values).await?)
    }

    async fn rope_tables(
        &self,
        config: &Config,
        divisors: Option<&VectorInfo<'_>>,
    ) -> Result<Vec<RopeTable>, ModelError> {
        let divisors = match divisors {
            Some(info) => Some(self.values(info).await?),
            None => None,
        };
        let table = |rope: Option<Rope>| match rope {
            Some(rope) => RopeTable { frequencies: rope.frequencies(divisors.as_deref()), magnitude: rope.magnitude },
            None => RopeTable { frequencies: Vec::new(), magnitude: 1.0 },
        };
        Ok(config.rope_tables().into_iter().map(table).collect())
    }
}

/// The buffers of a tree's tensors, in its order.
struct Uploaded {
    matrices: VecDeque<Matrix>,
    vectors: VecDeque<Buffer<f32>>,
    copies: VecDeque<Buffer<f32>>,
}

impl<'a> MapTensors<'a, MatrixInfo<'_>, VectorInfo<'_>> for Uploaded {
    type Matrix = Matrix;
    type Vector = Buffer<f32>;
    type Error = ModelError;

    fn matrix(&mut self, info: &'a MatrixInfo<'_>) -> Result<Matrix, ModelError> {
        self.matrices.pop_front().ok_or_else(|| ModelError::MissingTensor(info.name().to_owned()))
    }

    fn vector(&mut self, info: &'a VectorInfo<'_>) -> Result<Buffer<f32>, ModelError> {
        self.vectors.pop_front().ok_or_else(|| ModelError::MissingTensor(info.name().to_owned()))
    }

    fn copy(&mut self, info: &'a VectorInfo<'_>) -> Result<Buffer<f32>, ModelError> {
        self.copies.pop_front().ok_or_else(|| ModelError::MissingTensor(info.name().to_owned()))
    }
}
