//! Conversations as the tokens that the model is given.

use std::time::SystemTime;

use ferrum_wgpu::gguf::Gguf;
use ferrum_wgpu::model::Config;
use ferrum_wgpu::text::{ChatTemplate, Message, RenderOptions, TextError, Tokenizer};

use super::exit::Failure;

/// A file's tokenizer and template.
#[derive(Debug)]
pub struct Chat {
    pub tokenizer: Tokenizer,
    template: ChatTemplate,
    options: RenderOptions,
    /// The model's vocabulary, which the tokenizer's may exceed.
    vocab: u32,
    /// The file has no template of its own.
    pub assumed_chatml: bool,
}

impl Chat {
    /// Takes them from a file. `think`: whether the model is to think first, if its template knows the choice.
    pub fn new(gguf: &Gguf, config: &Config, think: Option<bool>) -> Result<Self, Failure> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let (template, assumed_chatml) = match ChatTemplate::from_metadata(gguf.metadata()) {
            Err(TextError::NoTemplate) => (ChatTemplate::chatml(), true),
            template => (template?, false),
        };
        // One moment for all turns: what is computed of a conversation stays valid.
        let now = Some(SystemTime::now());
        let options = RenderOptions { enable_thinking: think, now, ..Default::default() };
        Ok(Self { tokenizer, template, options, vocab: config.vocab, assumed_chatml })
    }

    /// The tokens of a conversation up to where the model is to go on. At most `context` of them.
    pub fn encode(&self, messages: &[Message], context: u32) -> Result<Vec<u32>, Failure> {
        let ids = self.tokenizer.encode_prompt(&self.template.render(messages, &self.options)?)?;
        let (len, vocab) = (ids.len(), self.vocab);
        if len == 0 {
            return Err(Failure::model("the chat template makes nothing of the prompt"));
        }
        if let Some(id) = ids.iter().find(|id| **id >= vocab) {
            return Err(Failure::model(format!(
                "the tokenizer's token {id} is not in the model's vocabulary of {vocab}"
            )));
        }
        if len as u64 > u64::from(context) {
            return Err(Failure::usage(format!("the prompt of {len} tokens does not fit in the context of {context}")));
        }
        Ok(ids)
    }
}
