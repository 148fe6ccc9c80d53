//! OpenAI's and Anthropic's HTTP APIs without HTTP: JSON requests become JSON responses, or streams of events.
//!
//! A [`Service`] is a model with its engine. It depends on no server, executor or clock, so that a server, a command and a
//! browser tab can share it. A field that is not supported is refused by name, never ignored.

#[cfg(feature = "constraint")]
mod call_grammar;
mod chat;
#[cfg(feature = "constraint")]
mod constrained;
mod embeddings;
mod error;
mod fields;
mod generation;
mod output;
mod response;
mod sampling;
mod service;
mod tools;

pub use embeddings::Embeddings;
pub use error::ApiError;
pub use generation::Observer;
pub use response::{Response, StreamEvent};
pub use service::{RequestContext, Service};
