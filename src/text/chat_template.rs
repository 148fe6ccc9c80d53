//! Chat templates: they render a conversation as the text that a model expects.

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

/// The size limit of templates in bytes. Real ones have up to about 20 KiB.
const MAX_LEN: usize = 64 << 10;

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::System, Self::User, Self::Assistant];

    /// Returns the role's name in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text.
    pub content: String,
}

impl Message {
    /// Creates a message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }

    /// Creates a system message.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// Creates a user message.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// Creates an assistant message.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new(Role::Assistant, content)
    }
}

/// Options for rendering a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct RenderOptions {
    /// Whether to end with the header of the assistant's next turn (default: `true`).
    pub add_generation_prompt: bool,
    /// Whether the model thinks before it answers, if the template supports this; `None` is the template's default.
    pub enable_thinking: Option<bool>,
    /// The time, in UTC, for templates that write the date with `strftime_now`. The library does not read the clock:
    /// with `None`, such templates omit the date or write a fixed one.
    pub now: Option<SystemTime>,
}

setters! {
    RenderOptions {
        add_generation_prompt: bool,
    }
    optional {
        enable_thinking: bool,
        now: SystemTime,
    }
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, enable_thinking: None, now: None }
    }
}

/// A chat template in Jinja, with Hugging Face's conventions.
///
/// Templates come from files and are not trusted. They can access only the conversation. Their length is limited, and
/// their work and memory are limited in proportion to the conversation. A template that fails returns an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Reads the template from a file's metadata.
    ///
    /// # Errors
    ///
    /// [`TextError::NoTemplate`] if the file has none; the errors of [`ChatTemplate::new`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        let source = metadata.str(TEMPLATE)?.ok_or(TextError::NoTemplate)?;
        let (bos, eos) = Vocabulary::ends_from_metadata(metadata)?;
        Self::new(source, bos, eos)
    }

    /// Compiles a template. It can refer to the texts of the beginning-of-text and end-of-text tokens.
    ///
    /// # Errors
    ///
    /// If the source is too long or not valid Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TextError> {
        if source.len() > MAX_LEN {
            return Err(TextError::TemplateTooLarge(source.len()));
        }
        Run { source, now: None, fuel: 0 }.check()?;
        Ok(Self { source: source.to_owned(), bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Returns the ChatML template, `<|im_start|>role … <|im_end|>`, which most models without a template understand.
    pub fn chatml() -> Self {
        Self { source: CHATML.to_owned(), bos: String::new(), eos: String::new() }
    }

    /// Returns the template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation as text for [`Tokenizer::encode_prompt`](super::Tokenizer::encode_prompt).
    ///
    /// # Errors
    ///
    /// [`TextError::TemplateRaised`] if the template rejects the conversation; other errors if it fails or exceeds its
    /// work limit.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, TextError> {
        let list: Value = messages
            .iter()
            .map(|message| Value::from_pairs([("role", message.role.name()), ("content", message.content.as_str())]))
            .collect();
        let mut variables = vec![
            ("messages", list),
            ("add_generation_prompt", options.add_generation_prompt.into()),
            ("bos_token", self.bos.as_str().into()),
            ("eos_token", self.eos.as_str().into()),
            // Hugging Face defines these as none if absent, and templates rely on it.
            ("tools", ().into()),
            ("documents", ().into()),
        ];
        variables.extend(options.enable_thinking.map(|enable| ("enable_thinking", enable.into())));
        Run { source: &self.source, now: options.now, fuel: fuel(messages) }.render(variables)
    }
}

/// Returns the work limit for a conversation. Qwen3's template takes about 80 units per message and 1 per 12 bytes.
fn fuel(messages: &[Message]) -> u64 {
    const BASE: u64 = 50_000;
    const PER_MESSAGE: u64 = 1_000;
    let saturating = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let bytes = messages.iter().map(|message| saturating(message.content.len())).fold(0, u64::saturating_add);
    BASE.saturating_add(PER_MESSAGE.saturating_mul(saturating(messages.len()))).saturating_add(bytes / 2)
}
