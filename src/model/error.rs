use crate::{
    gguf::{GgufError, Quoted, Shown},
    gpu::GpuError,
};

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The architecture is none of those that are supported.
    #[error("architecture {} is not supported (supported: qwen3moe, qwen3, llama)", Quoted(_0))]
    Architecture(String),
    /// A metadata key that is needed is missing.
    #[error("the file has no metadata key {0}")]
    MissingKey(String),
    /// A metadata value makes no sense, or contradicts another or a tensor.
    #[error("{key} is {value}: {reason}")]
    BadValue {
        /// The key.
        key: String,
        /// What the file has.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file asks for something that these kernels do not compute.
    #[error("{key} = {value} is not supported")]
    Unsupported {
        /// The key.
        key: String,
        /// What the file has.
        value: String,
    },
    /// A tensor that is needed is missing.
    #[error("the file has no tensor {0}")]
    MissingTensor(String),
    /// A tensor has another shape than the metadata call for.
    #[error("tensor {name} has shape {found:?}, but the metadata call for {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, row length first.
        found: Vec<u64>,
        /// The shape it should have.
        expected: Vec<u64>,
    },
    /// A tensor's rows cannot be read in whole words.
    #[error("tensor {name} has rows of {k} weights; rows must be multiples of 4")]
    RowLength {
        /// The tensor.
        name: String,
        /// Weights of a row.
        k: u64,
    },
    /// The experts of a tensor cannot be brought one by one.
    #[error("tensor {name} has experts of {rows} rows; to be paged they must have a multiple of 8")]
    NotOffloadable {
        /// The tensor.
        name: String,
        /// Rows of an expert.
        rows: u64,
    },
    /// A number of slots for experts that cannot be.
    #[error("{slots} slots for experts are not possible with this model: {least} to {most}")]
    ExpertSlots {
        /// What was asked for.
        slots: u32,
        /// Those that a token uses; 0 for a dense model, which has no experts.
        least: u32,
        /// All.
        most: u32,
    },
    /// A tensor that this architecture does not have: ignoring it could change what the model says.
    #[error("tensor {} is not part of this architecture", Shown(_0))]
    UnknownTensor(String),
    /// The GGUF file is wrong.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}
