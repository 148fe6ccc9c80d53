//! The errors of the library as exceptions of Python.

use std::error::Error as StdError;

use ferrum_wgpu::{EngineError, Error, GgufError, GpuError, GrammarError, ModelError, TextError, api::ApiError};
use pyo3::{
    exceptions::{PyOSError, PyValueError},
    prelude::*,
};

/// The classes of exceptions.
pub mod exceptions {
    use pyo3::{create_exception, exceptions::PyException};

    create_exception!(ferrum_wgpu, Error, PyException, "An error of this package; the base class of the others.");
    create_exception!(ferrum_wgpu, FileFormatError, Error, "The file is not a valid GGUF file.");
    create_exception!(ferrum_wgpu, ModelError, Error, "The model is not supported, or its file is inconsistent.");
    create_exception!(ferrum_wgpu, TextError, Error, "The tokenizer or the chat template failed.");
    create_exception!(ferrum_wgpu, DeviceError, Error, "There is no such device, or it failed.");
    create_exception!(ferrum_wgpu, DeviceLostError, DeviceError, "The device is lost. Engine.recover opens it again.");
    create_exception!(ferrum_wgpu, OutOfMemoryError, DeviceError, "The model or a buffer does not fit in the memory.");
    create_exception!(ferrum_wgpu, EngineError, Error, "A request failed.");
    create_exception!(ferrum_wgpu, BusyError, EngineError, "The conversation has a reply in progress.");
    create_exception!(ferrum_wgpu, ContextFullError, EngineError, "The tokens do not fit in the context or KV cache.");
    create_exception!(ferrum_wgpu, GrammarError, Error, "The schema, expression or grammar cannot be used.");
    create_exception!(
        ferrum_wgpu,
        RequestError,
        Error,
        "A request in OpenAI's form failed. It has `status`, `param` (the field's name or None) and `code`."
    );
}

/// Adds the exceptions to the module.
pub fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    macro_rules! add {
        ($($name:ident)*) => { $(module.add(stringify!($name), py.get_type::<exceptions::$name>())?;)* };
    }
    add!(Error FileFormatError ModelError TextError DeviceError DeviceLostError OutOfMemoryError);
    add!(EngineError BusyError ContextFullError GrammarError RequestError);
    Ok(())
}

/// Returns the messages of an error and its sources.
fn message(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Converts an error of the library.
pub fn exception(error: impl Into<Error>) -> PyErr {
    match error.into() {
        Error::Gguf(error) => of_gguf(&error),
        Error::Text(error) => of_text(&error),
        Error::Gpu(error) => of_gpu(&error),
        Error::Model(ModelError::Gpu(error)) => of_gpu(&error),
        Error::Model(error) => exceptions::ModelError::new_err(message(&error)),
        Error::Engine(error) => of_engine(&error),
        error => exceptions::Error::new_err(message(&error)),
    }
}

fn of_gguf(error: &GgufError) -> PyErr {
    match error {
        // The number selects the class, such as FileNotFoundError.
        GgufError::Io { path, source } => match source.raw_os_error() {
            Some(number) => PyOSError::new_err((number, source.to_string(), path.clone())),
            None => PyOSError::new_err(message(error)),
        },
        error => exceptions::FileFormatError::new_err(message(error)),
    }
}

fn of_text(error: &TextError) -> PyErr {
    exceptions::TextError::new_err(message(error))
}

fn of_gpu(error: &GpuError) -> PyErr {
    let text = message(error);
    match error {
        GpuError::Lost(_) | GpuError::Hung { .. } => exceptions::DeviceLostError::new_err(text),
        GpuError::TooLarge { .. } | GpuError::OutOfMemory { .. } => exceptions::OutOfMemoryError::new_err(text),
        _ => exceptions::DeviceError::new_err(text),
    }
}

fn of_engine(error: &EngineError) -> PyErr {
    let text = message(error);
    match error {
        EngineError::Gpu(error) => of_gpu(error),
        EngineError::Model(_) | EngineError::OtherModel => exceptions::ModelError::new_err(text),
        EngineError::DeviceLost => exceptions::DeviceLostError::new_err(text),
        EngineError::DoesNotFit { .. } => exceptions::OutOfMemoryError::new_err(text),
        EngineError::Busy => exceptions::BusyError::new_err(text),
        EngineError::ContextFull { .. } | EngineError::NeverFits { .. } | EngineError::PoolFull { .. } => {
            exceptions::ContextFullError::new_err(text)
        }
        EngineError::NoTokens
        | EngineError::TokenId { .. }
        | EngineError::Context { .. }
        | EngineError::KvType { .. }
        | EngineError::Option { .. } => PyValueError::new_err(text),
        _ => exceptions::EngineError::new_err(text),
    }
}

/// Converts an error of a grammar.
pub fn of_grammar(error: &GrammarError) -> PyErr {
    exceptions::GrammarError::new_err(error.to_string())
}

/// Converts an error of a request in OpenAI's form.
pub fn of_request(py: Python<'_>, error: ApiError) -> PyErr {
    let exception = exceptions::RequestError::new_err(error.message);
    let value = exception.value(py);
    let set = value
        .setattr("status", error.status)
        .and_then(|()| value.setattr("param", error.param))
        .and_then(|()| value.setattr("code", error.code));
    set.err().unwrap_or(exception)
}
