//! The command `tokenize`.

use std::path::PathBuf;

use clap::Args;
use ferrum_wgpu::Tokenizer;
use serde_json::json;

use super::exit::{Code, Failure};
use super::output::print;
use super::{load, prompt};

/// Show the tokens of a text as one line of JSON: {"ids": [...], "pieces": [...]}.
///
/// The text is taken as it is: no token is added, and the names of control tokens are plain text, unless asked.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// The GGUF file.
    model: PathBuf,
    /// The text [default: standard input].
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Parse the names of control tokens.
    #[arg(long)]
    special: bool,
    /// Begin with the beginning-of-text token.
    #[arg(long)]
    bos: bool,
}

/// Runs the command.
pub fn tokenize(args: &TokenizeArgs) -> Result<Code, Failure> {
    let gguf = load::open(&args.model, true)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let text = match &args.prompt {
        Some(text) => text.clone(),
        None => prompt::standard_input("text")?,
    };
    let mut ids = Vec::new();
    if args.bos {
        ids.push(tokenizer.bos_id().ok_or_else(|| Failure::model("the file has no beginning-of-text token"))?);
    }
    ids.extend(tokenizer.encode(&text, args.special)?);
    let piece = |id: &u32| String::from_utf8_lossy(&tokenizer.token_bytes(*id).unwrap_or_default()).into_owned();
    let pieces: Vec<String> = ids.iter().map(piece).collect();
    print(&format!("{}\n", json!({ "ids": ids, "pieces": pieces })))?;
    Ok(Code::Success)
}
