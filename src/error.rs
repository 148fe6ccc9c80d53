//! The library's error type.

use crate::{engine::EngineError, gguf::GgufError, gpu::GpuError, model::ModelError, text::TextError};

/// An error of this library.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error from reading a GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// An error from a tokenizer or a chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// An error from a device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// An error from loading a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An error from an engine or a session.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
