use super::Architecture;
use crate::{
    gguf::{GgufError, Quoted, Shown},
    gpu::GpuError,
};

/// An error from loading a model.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The architecture is not supported.
    #[error("architecture {} is not supported (supported: {})", Quoted(_0), Architecture::names())]
    Architecture(String),
    /// A required metadata key is missing.
    #[error("metadata key {0} is missing")]
    MissingKey(String),
    /// A metadata value is invalid, or contradicts another one or a tensor.
    #[error("metadata key {key} has the invalid value {value}: {reason}")]
    BadValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The reason.
        reason: String,
    },
    /// The model uses a feature that is not supported.
    #[error("metadata {key} = {value} is not supported: it needs {needs}")]
    Unsupported {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What the model would need.
        needs: &'static str,
    },
    /// A required tensor is missing.
    #[error("tensor {0} is missing")]
    MissingTensor(String),
    /// A tensor's shape does not match the metadata.
    #[error("tensor {name} has the shape {found:?}, but the metadata requires {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, row length first.
        found: Vec<u64>,
        /// The shape required.
        expected: Vec<u64>,
    },
    /// A tensor's row length is not a multiple of 4.
    #[error("tensor {name} has rows of {k} weights, not a multiple of 4")]
    RowLength {
        /// The tensor.
        name: String,
        /// The row length in weights.
        k: u64,
    },
    /// The experts of a tensor cannot be loaded one by one.
    #[error("tensor {name} has {rows} rows per expert; expert offloading needs a multiple of 16")]
    NotOffloadable {
        /// The tensor.
        name: String,
        /// The rows per expert.
        rows: u64,
    },
    /// The number of expert cache slots is out of range.
    #[error("{slots} expert cache slots per layer are out of range for this model: must be from {least} to {most}")]
    ExpertSlots {
        /// The slots requested.
        slots: u32,
        /// The experts used per token; 0 for a dense model.
        least: u32,
        /// The experts per layer.
        most: u32,
    },
    /// The file has a tensor that the architecture does not define. Ignoring it could change the output.
    #[error("tensor {} is not part of this architecture", Shown(_0))]
    UnknownTensor(String),
    /// The GGUF file is invalid.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}
