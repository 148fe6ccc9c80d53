//! Errors of requests, in the forms of both APIs.

use serde_json::{Value, json};

use crate::{engine::EngineError, text::TextError};

/// The error of a request. Its text names no file of the machine.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// What is wrong.
    pub message: String,
    /// The field that is wrong, such as `messages[0].content`.
    pub param: Option<String>,
    /// A stable name of the error.
    pub code: Option<&'static str>,
    /// After how many seconds the client may try again.
    pub retry_after: Option<u32>,
}

impl ApiError {
    /// Returns an error of an HTTP status.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// Returns the error of a field (400).
    pub fn field(param: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self { param: Some(param.clone()), ..Self::new(400, format!("{param}: {problem}")) }
    }

    /// Returns the error of a field that is not supported (400).
    pub fn unsupported(param: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::field(param, problem) }
    }

    /// Returns the error with the name `code`.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Returns the error's type in OpenAI's API.
    pub fn openai_type(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            503 => "unavailable_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// Returns the error's type in Anthropic's API.
    pub fn anthropic_type(&self) -> &'static str {
        match self.status {
            401 => "authentication_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            400..500 => "invalid_request_error",
            _ => "api_error",
        }
    }

    /// Returns the body of OpenAI's API.
    pub fn openai(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.openai_type(), "param": self.param, "code": self.code,
        }})
    }

    /// Returns the body of Anthropic's API.
    pub fn anthropic(&self) -> Value {
        json!({"type": "error", "error": {"type": self.anthropic_type(), "message": self.message}})
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::ContextFull { .. } => Self::new(400, message).code("context_length_exceeded"),
            EngineError::NeverFits { .. } | EngineError::PoolFull { .. } => {
                Self::new(400, message).code("context_length_exceeded")
            }
            EngineError::TokenId { .. } | EngineError::NoTokens => Self::new(400, message),
            EngineError::Option { option, value, range } => {
                Self::field(option, format_args!("{value} is out of range: must be {range}"))
            }
            EngineError::Constraint(message) => Self::new(500, message).code("constraint_failed"),
            EngineError::DeviceLost => Self { retry_after: Some(1), ..Self::new(503, message).code("device_lost") },
            // A driver's text may name files of the machine.
            EngineError::Gpu(_) => Self {
                retry_after: Some(1),
                ..Self::new(503, "the device failed; the server tries to recover").code("device_lost")
            },
            EngineError::NotANumber => Self::new(500, message),
            _ => Self::new(500, "internal error"),
        }
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Json(_) => Self::new(400, error.to_string()),
            error => Self::field("messages", error),
        }
    }
}
