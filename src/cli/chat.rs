//! Rendering and encoding of conversations.

use ferrum_wgpu::Config;
use ferrum_wgpu::Gguf;
use ferrum_wgpu::{ChatTemplate, Message, RenderOptions, TextError, Tokenizer};

use super::exit::Failure;
use super::template::local_time;

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct Chat {
    pub tokenizer: Tokenizer,
    template: ChatTemplate,
    options: RenderOptions,
    /// The model's vocabulary size. The tokenizer's may be larger.
    vocab: u32,
    /// Whether the file has no template and ChatML is assumed.
    pub assumed_chatml: bool,
}

impl Chat {
    /// Reads tokenizer and template from a file. `think` sets the template's `enable_thinking`.
    pub fn new(gguf: &Gguf, config: &Config, think: Option<bool>) -> Result<Self, Failure> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let (template, assumed_chatml) = match ChatTemplate::from_metadata(gguf.metadata()) {
            Err(TextError::NoTemplate) => (ChatTemplate::chatml(), true),
            template => (template?, false),
        };
        // The same time for all turns, so the rendered prefix stays the same and the KV cache valid.
        let (now, offset) = local_time();
        let options = RenderOptions::default().enable_thinking(think).now(now).utc_offset(offset);
        Ok(Self { tokenizer, template, options, vocab: config.vocab, assumed_chatml })
    }

    /// Renders and encodes a conversation. Fails if it has more than `context` tokens.
    pub fn encode(&self, messages: &[Message], context: u32) -> Result<Vec<u32>, Failure> {
        let ids = self.template.encode(&self.tokenizer, messages, &self.options)?;
        let (len, vocab) = (ids.len(), self.vocab);
        if len == 0 {
            return Err(Failure::model("the chat template rendered an empty prompt"));
        }
        if let Some(id) = ids.iter().find(|id| **id >= vocab) {
            return Err(Failure::model(format!(
                "token {id} of the tokenizer is not in the model's vocabulary of {vocab} tokens"
            )));
        }
        if len as u64 > u64::from(context) {
            return Err(Failure::usage(format!(
                "the prompt of {len} tokens does not fit in the context of {context} tokens"
            )));
        }
        Ok(ids)
    }
}
