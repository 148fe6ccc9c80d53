use crate::{engine::EngineError, gguf::GgufError, gpu::GpuError, model::ModelError, text::TextError};

/// Anything that can go wrong in this library, by the layer in which it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading a GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Tokenizer and chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Devices, memory, kernels.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// Loading a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Running a sequence.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
