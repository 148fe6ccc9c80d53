//! Conversations written out as the text that a model was trained on.

use std::time::SystemTime;

use minijinja::value::Value;

use super::error::TextError;
use super::template_engine::Run;
use super::vocabulary::Vocabulary;
use crate::gguf::Metadata;

const TEMPLATE: &str = "tokenizer.chat_template";

const CHATML: &str = "{%- for message in messages %}\
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\
    {%- endfor %}\
    {%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}";

/// The longest template that is read; real ones have up to some 20 KiB.
const LONGEST: usize = 64 << 10;

/// Who says something in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that chat templates know the role by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One contribution to a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }

    /// An instruction to the model.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// Something that the person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// Something that the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }
}

/// How a conversation is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderOptions {
    /// Whether to end with the start of the model's next turn; it is so unless changed.
    pub add_generation_prompt: bool,
    /// Whether the model is to think before it answers, for templates that know the choice; theirs if not given.
    pub enable_thinking: Option<bool>,
    /// The moment for templates that write the date, taken as UTC (shift it to have local time). This library reads no
    /// clock, so without it such templates find no `strftime_now` and leave the date out or write a fixed one.
    pub now: Option<SystemTime>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, enable_thinking: None, now: None }
    }
}

/// A chat template in Jinja, as Hugging Face defines them.
///
/// A template comes from a file and is not trusted: it reaches nothing but the conversation, its length is limited, its
/// work, the data it makes and the parts of values that it goes through are limited in proportion to the conversation, and
/// what it does wrong is an error value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template of a file.
    ///
    /// # Errors
    ///
    /// [`TextError::NoTemplate`] if the file has none; else as [`ChatTemplate::new`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        let source = metadata.str(TEMPLATE)?.ok_or(TextError::NoTemplate)?;
        let (bos, eos) = Vocabulary::ends_from_metadata(metadata)?;
        Self::new(source, bos, eos)
    }

    /// The template with this source, which may name the beginning-of-text and end-of-text tokens.
    ///
    /// # Errors
    ///
    /// If the source is too long or not valid Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TextError> {
        if source.len() > LONGEST {
            return Err(TextError::TemplateTooLarge(source.len()));
        }
        Run { source, now: None, fuel: 0 }.check()?;
        Ok(Self { source: source.to_owned(), bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// ChatML, `<|im_start|>role … <|im_end|>`: what most models without a template of their own understand.
    pub fn chatml() -> Self {
        Self { source: CHATML.to_owned(), bos: String::new(), eos: String::new() }
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text for [`Tokenizer::encode_prompt`](super::Tokenizer::encode_prompt).
    ///
    /// # Errors
    ///
    /// [`TextError::TemplateRaised`] if the template does not accept the conversation; other errors if it fails or
    /// takes too much work.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, TextError> {
        let list: Value = messages
            .iter()
            .map(|message| Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())]))
            .collect();
        let mut variables = vec![
            ("messages", list),
            ("add_generation_prompt", options.add_generation_prompt.into()),
            ("bos_token", self.bos.as_str().into()),
            ("eos_token", self.eos.as_str().into()),
            // Hugging Face defines these two as none when there are none, and templates rely on it.
            ("tools", ().into()),
            ("documents", ().into()),
        ];
        variables.extend(options.enable_thinking.map(|enable| ("enable_thinking", enable.into())));
        Run { source: &self.source, now: options.now, fuel: fuel(messages) }.render(variables)
    }
}

/// The work that a template may do. Qwen3's takes some 80 units for a message and 1 for 12 bytes.
fn fuel(messages: &[Message]) -> u64 {
    const BASE: u64 = 50_000;
    const PER_MESSAGE: u64 = 1_000;
    let saturating = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let bytes = messages.iter().map(|message| saturating(message.content.len())).fold(0, u64::saturating_add);
    BASE.saturating_add(PER_MESSAGE.saturating_mul(saturating(messages.len()))).saturating_add(bytes / 2)
}
