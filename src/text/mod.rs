//! Tokenizers and chat templates of GGUF files.
//!
//! Both are built from a file's metadata, which is not trusted: a malicious vocabulary, merge table, template or prompt
//! results in a [`TextError`], not a panic.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let file = ferrum_wgpu::gguf::Gguf::open("model.gguf")?;
//! use ferrum_wgpu::{ChatTemplate, Message, RenderOptions, Tokenizer};
//!
//! let tokenizer = Tokenizer::from_gguf(&file)?;
//! let template = ChatTemplate::from_metadata(file.metadata())?;
//! let ids = template.encode(&tokenizer, &[Message::user("Hello")], &RenderOptions::default())?;
//! # Ok(())
//! # }
//! ```

mod bpe;
mod byte_alphabet;
mod chat_template;
#[cfg(test)]
mod chat_template_tests;
mod checked_syntax;
mod date;
mod decode;
mod ends;
mod error;
mod json;
mod marks;
mod pre_tokenizer;
mod sentence_piece;
mod special;
mod stop;
mod template_engine;
mod to_json;
mod token_ids;
mod tokenizer;
mod vocabulary;

pub use chat_template::{ChatTemplate, Message, RenderOptions, Role};
pub use decode::DecodeStream;
pub(crate) use decode::Decoder;
pub use error::TextError;
pub use json::Json;
pub use stop::StopStrings;
pub use tokenizer::Tokenizer;
pub use vocabulary::Vocabulary;
