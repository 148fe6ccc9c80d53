//! The tokenizer and the chat template of a conversation.

use std::path::Path;
use std::sync::Arc;

use ferrum_wgpu::Config;
use ferrum_wgpu::Gguf;
use ferrum_wgpu::low_level::text::Vocabulary;
use ferrum_wgpu::{ChatTemplate, Message, RenderOptions, TextError, Tokenizer};

use super::exit::Failure;
use super::template::{local_time, text};

/// The note about a file of byte-level BPE that does not name its pre-tokenizer.
pub const ASSUMED_PRE_TOKENIZER: &str =
    "the file does not name its pre-tokenizer; with `default`, the quality of replies may suffer";

/// The chat template to use.
#[derive(Clone, Copy, Debug)]
pub enum TemplateChoice<'a> {
    /// The model file's, or ChatML if it has none.
    OfFile,
    /// A file, or the name of one of the model file's templates.
    Given(&'a str),
    /// None: the messages' texts are the prompt.
    None,
}

/// A model's tokenizer and the chat template to use.
#[derive(Debug)]
pub struct PromptEncoder {
    pub tokenizer: Arc<Tokenizer>,
    pub template: Option<ChatTemplate>,
    pub options: RenderOptions,
    /// The model's vocabulary size. The tokenizer's may be larger.
    vocab: u32,
    /// What the user should know about the tokenizer and the template.
    pub notes: Vec<&'static str>,
}

impl PromptEncoder {
    /// Reads tokenizer and template from a file. `think` sets the template's `enable_thinking`.
    pub fn new(
        gguf: &Gguf,
        config: &Config,
        choice: TemplateChoice<'_>,
        think: Option<bool>,
        parse_special: bool,
    ) -> Result<Self, Failure> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let mut notes = Vec::new();
        if Vocabulary::assumes_pre_tokenizer(gguf.metadata()) {
            notes.push(ASSUMED_PRE_TOKENIZER);
        }
        let template = match choice {
            TemplateChoice::None => None,
            TemplateChoice::Given(name) if Path::new(name).is_file() => {
                let (bos, eos) = (tokenizer.bos_token().unwrap_or(""), tokenizer.eos_token().unwrap_or(""));
                Some(ChatTemplate::new(&text(Path::new(name))?, bos, eos)?)
            }
            TemplateChoice::Given("chatml") => Some(ChatTemplate::chatml()),
            TemplateChoice::Given(name) => Some(ChatTemplate::named(gguf.metadata(), name)?),
            TemplateChoice::OfFile => match ChatTemplate::from_metadata(gguf.metadata()) {
                Err(TextError::NoTemplate) => {
                    notes.push("the file has no chat template; using ChatML");
                    Some(ChatTemplate::chatml())
                }
                template => Some(template?),
            },
        };
        if think.is_some() && template.as_ref().is_some_and(|template| !template.reads_enable_thinking()) {
            notes.push("the chat template has no choice of thinking; --think and --no-think change nothing");
        }
        // The same time for all turns, so the rendered prefix stays the same and the KV cache valid.
        let (now, offset) = local_time();
        let options =
            RenderOptions::default().enable_thinking(think).now(now).utc_offset(offset).parse_special(parse_special);
        Ok(Self { tokenizer: Arc::new(tokenizer), template, options, vocab: config.vocab, notes })
    }

    /// Checks the prompt of a conversation as replies encode it. Fails if it has more than `context` tokens.
    pub fn check(&self, messages: &[Message], context: u32) -> Result<(), Failure> {
        let ids = match &self.template {
            Some(template) => template.encode(&self.tokenizer, messages, &self.options)?,
            None => {
                let text: String = messages.iter().map(|message| message.content.as_str()).collect();
                self.tokenizer.encode_prompt(&text)?
            }
        };
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
        Ok(())
    }
}
