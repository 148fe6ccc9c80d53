//! Exit codes, and failures that end a command with one of them.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use ferrum_wgpu::{EngineError, Error, GgufError, GpuError, ModelError, TextError};

use ferrum_wgpu::low_level::gpu::error_chain;

use super::output;

/// An exit code; [`Code::TABLE`] describes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Success = 0,
    Runtime = 1,
    Usage = 2,
    Model = 3,
    Device = 4,
    Memory = 5,
    Lost = 6,
    SelfTest = 7,
    Network = 8,
    Interrupted = 130,
    Terminated = 143,
}

impl Code {
    /// All codes with their descriptions, as shown by `--help`.
    const TABLE: [(Self, &str); 11] = [
        (Self::Success, "success"),
        (Self::Runtime, "any other error"),
        (Self::Usage, "usage error: invalid option values, a prompt longer than the context, a token id out of range"),
        (Self::Model, "the model file is missing, unreadable, invalid or not supported"),
        (Self::Device, "no suitable device, or the requested device does not exist"),
        (Self::Memory, "out of memory, a buffer larger than the device allows, or a model that does not fit"),
        (Self::Lost, "the device was lost or hangs"),
        (Self::SelfTest, "a self-test failed"),
        (Self::Network, "a download failed"),
        (Self::Interrupted, "interrupted by Ctrl-C"),
        (Self::Terminated, "ended by SIGTERM"),
    ];

    /// Returns the table as text.
    pub fn table() -> String {
        Self::TABLE.iter().fold("Exit codes:".to_owned(), |mut text, (code, meaning)| {
            let _ = write!(text, "\n  {:>3}  {meaning}", *code as u8);
            text
        })
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// The reason that a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// The reader of standard output has closed it. Not an error.
    OutputClosed,
    /// An error: exit code and message.
    Error(Code, String),
}

impl Failure {
    /// Creates a usage error.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Error(Code::Usage, message.into())
    }

    /// Creates an error about the model file.
    pub fn model(message: impl Into<String>) -> Self {
        Self::Error(Code::Model, message.into())
    }

    /// Converts a failed write to standard output.
    pub fn stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Error(Code::Runtime, format!("cannot write to standard output: {error}")),
        }
    }

    /// Prints the message on standard error, on one line, and returns the exit code.
    pub fn report(&self) -> Code {
        match self {
            Self::OutputClosed => Code::Success,
            Self::Error(code, message) => {
                output::note(format_args!("error: {}", output::one_line(message)));
                *code
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Gguf(error) => error.into(),
            Error::Text(error) => error.into(),
            Error::Gpu(error) => error.into(),
            Error::Model(error) => error.into(),
            Error::Engine(error) => error.into(),
            error => Self::Error(Code::Runtime, error_chain(&error)),
        }
    }
}

macro_rules! failure_from {
    ($($ty:ty => $code:expr),* $(,)?) => {
        $(impl From<$ty> for Failure {
            fn from(error: $ty) -> Self {
                let code: fn(&$ty) -> Code = $code;
                Self::Error(code(&error), error_chain(&error))
            }
        })*
    };
}

failure_from! {
    GgufError => |_| Code::Model,
    TextError => |_| Code::Model,
    ModelError => |error| match error {
        ModelError::Gpu(gpu) => gpu_code(gpu),
        _ => Code::Model,
    },
    EngineError => |error| match error {
        EngineError::Gpu(gpu) => gpu_code(gpu),
        EngineError::Model(_) | EngineError::OtherModel => Code::Model,
        EngineError::KvType { .. } => Code::Device,
        EngineError::DoesNotFit { .. } | EngineError::States { .. } => Code::Memory,
        EngineError::DeviceLost => Code::Lost,
        EngineError::NoTokens
        | EngineError::TokenId { .. }
        | EngineError::ContextFull { .. }
        | EngineError::NeverFits { .. }
        | EngineError::Context { .. }
        | EngineError::Option { .. } => Code::Usage,
        _ => Code::Runtime,
    },
    GpuError => gpu_code,
}

fn gpu_code(error: &GpuError) -> Code {
    match error {
        GpuError::NoAdapter | GpuError::NoSuchDevice { .. } | GpuError::RequestDevice { .. } => Code::Device,
        GpuError::TooLarge { .. } | GpuError::OutOfMemory { .. } => Code::Memory,
        GpuError::Lost(_) | GpuError::Hung { .. } => Code::Lost,
        GpuError::Host(_) => Code::Model,
        _ => Code::Runtime,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn sources_follow_unless_said_already() {
        let error = Layer("cannot read x", Some(Box::new(Layer("read x", Some(Box::new(Layer("gone", None)))))));
        assert_eq!(error_chain(&error), "cannot read x: gone");
    }

    #[test]
    fn a_device_that_is_gone_has_its_own_code() {
        let hung = || GpuError::Hung { waited: std::time::Duration::from_secs(30) };
        for failure in [
            Failure::from(hung()),
            Failure::from(GpuError::Lost(Arc::new(io::Error::other("reset")))),
            Failure::from(ModelError::Gpu(hung())),
            Failure::from(EngineError::from(hung())),
            Failure::from(EngineError::DeviceLost),
        ] {
            assert!(matches!(failure, Failure::Error(Code::Lost, _)), "{failure:?}");
        }
    }

    #[test]
    fn the_table_has_each_code_once() {
        let codes = Code::TABLE.map(|(code, _)| code as u8);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 130, 143]);
        assert_eq!(Code::table().lines().count(), 12);
    }
}
