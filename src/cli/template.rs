//! The command `template`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use ferrum_wgpu::{ChatTemplate, Gguf, Json, RenderOptions, TextError};
use jiff::Timestamp;

use super::exit::{Code, Failure};
use super::load;
use super::output::print;

/// Show what a chat template makes of a conversation, exactly.
#[derive(Debug, Args)]
pub struct TemplateArgs {
    /// The GGUF file, or a template in Jinja.
    #[arg(value_name = "MODEL.gguf|FILE.jinja")]
    source: PathBuf,
    /// The conversation: a JSON list of messages, as in OpenAI's API.
    #[arg(long, value_name = "FILE.json")]
    messages: PathBuf,
    /// Tools: a JSON list of function schemas.
    #[arg(long, value_name = "FILE.json")]
    tools: Option<PathBuf>,
    /// Documents: a JSON list.
    #[arg(long, value_name = "FILE.json")]
    documents: Option<PathBuf>,
    /// Further variables of the template: a JSON value for each NAME. May be repeated.
    #[arg(long = "set", value_name = "NAME=JSON", value_parser = variable)]
    variables: Vec<(String, Json)>,
    /// The file's template of this name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Text of the beginning-of-text token [default: the file's].
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    bos: Option<String>,
    /// Text of the end-of-text token [default: the file's].
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    eos: Option<String>,
    /// The time for templates that write the date, with the offset of the local time [default: now].
    #[arg(long, value_name = "RFC3339", value_parser = time)]
    now: Option<(SystemTime, i32)>,
    /// Do not begin the assistant's turn.
    #[arg(long)]
    no_generation_prompt: bool,
    /// Enable thinking, if the template supports the choice.
    #[arg(long)]
    think: bool,
    /// Disable thinking, if the template supports the choice.
    #[arg(long, conflicts_with = "think")]
    no_think: bool,
}

/// Runs the command.
pub fn template(args: &TemplateArgs) -> Result<Code, Failure> {
    let tools = args.tools.as_deref().map(json).transpose()?;
    let documents = args.documents.as_deref().map(json).transpose()?;
    let template = read(args, tools.is_some())?;
    let (now, offset) = args.now.unwrap_or_else(local_time);
    let options = RenderOptions::default()
        .add_generation_prompt(!args.no_generation_prompt)
        .enable_thinking((args.think || args.no_think).then_some(args.think))
        .now(now)
        .utc_offset(offset)
        .tools(tools)
        .documents(documents)
        .variables(args.variables.clone());
    let messages = json(&args.messages)?;
    if !messages.as_str().trim_start().starts_with('[') {
        return Err(Failure::usage(format!("{}: expected a list of messages", args.messages.display())));
    }
    print(&template.render_json(&messages, &options)?)?;
    Ok(Code::Success)
}

/// Reads the template, of a model file or as it is.
fn read(args: &TemplateArgs, with_tools: bool) -> Result<ChatTemplate, Failure> {
    let is_model = std::fs::File::open(&args.source).is_ok_and(|mut file| {
        let mut magic = [0; 4];
        std::io::Read::read_exact(&mut file, &mut magic).is_ok() && magic == *b"GGUF"
    });
    let template = if is_model {
        let gguf = load::open(&args.source, true)?;
        match &args.name {
            Some(name) => ChatTemplate::named(gguf.metadata(), name)?,
            None => of_model(&gguf, with_tools)?,
        }
    } else {
        ChatTemplate::new(&text(&args.source)?, "", "")?
    };
    let (bos, eos) = (args.bos.as_deref(), args.eos.as_deref());
    Ok(template.with_ends(bos, eos))
}

/// Returns the template of a file: with tools its template `tool_use`, if it has one, as in Hugging Face's library.
pub fn of_model(gguf: &Gguf, with_tools: bool) -> Result<ChatTemplate, TextError> {
    match with_tools.then(|| ChatTemplate::named(gguf.metadata(), "tool_use")) {
        None | Some(Err(TextError::NoNamedTemplate { .. })) => ChatTemplate::from_metadata(gguf.metadata()),
        Some(template) => template,
    }
}

/// Reads a text file.
pub fn text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}

/// Reads a JSON file.
fn json(path: &Path) -> Result<Json, Failure> {
    Json::parse(text(path)?).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Parses `NAME=JSON`.
fn variable(text: &str) -> Result<(String, Json), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=JSON")?;
    Ok((name.to_owned(), Json::parse(value).map_err(|error| error.to_string())?))
}

/// Parses a time with its offset from UTC.
fn time(text: &str) -> Result<(SystemTime, i32), String> {
    let pieces = jiff::fmt::temporal::Pieces::parse(text).map_err(|error| error.to_string())?;
    let offset = pieces.to_numeric_offset().ok_or("expected an offset from UTC, as in 2026-11-28T12:00:00Z")?;
    let timestamp: Timestamp = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Ok((timestamp.into(), offset.seconds()))
}

/// Returns the time, and the offset of the local time from UTC in seconds.
pub fn local_time() -> (SystemTime, i32) {
    let now = jiff::Zoned::now();
    (now.timestamp().into(), now.offset().seconds())
}
