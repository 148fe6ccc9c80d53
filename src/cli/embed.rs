//! The command `embed`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ferrum_wgpu::{EmbedOptions, Engine, EngineOptions, KvType, Pooling, Tokenizer};
use serde_json::{Value, json};

use super::args::{DeviceArg, PrecisionArg, kv_type, pooling};
use super::device::DeviceChoice;
use super::exit::{Code, Failure};
use super::memory::MemoryArgs;
use super::{load, output, prompt};

/// Print the embedding of each line of a text, as JSON.
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// The GGUF file, or the name of a model on the Hugging Face Hub: ORG/REPO[:QUANT].
    model: PathBuf,
    /// The text, a line for each embedding [default: standard input].
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// How the hidden states of a line become one vector [default: as the file says, else mean].
    #[arg(long, value_name = "POOLING", value_parser = pooling())]
    pooling: Option<Pooling>,
    /// Divide vectors by their Euclidean norm (2), or not (-1).
    #[arg(long, value_name = "2|-1", default_value_t = 2, allow_hyphen_values = true, value_parser = clap::value_parser!(i8))]
    embd_normalize: i8,
    /// Form of the output: a list of vectors, or the response of OpenAI's API.
    #[arg(long, value_name = "FORM", default_value = "array")]
    embd_output_format: Form,
    /// Context size in tokens [default: the number of tokens of the longest line].
    #[arg(short, long, visible_alias = "ctx-size", value_name = "TOKENS")]
    ctx: Option<u32>,
    /// Data type of the KV cache [default: f16 if the device supports it, else f32].
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    kv_type: Option<KvType>,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    precision: PrecisionArg,
    #[command(flatten)]
    device: DeviceArg,
}

/// A form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Array,
    Json,
}

/// Runs the command.
pub async fn embed(args: &EmbedArgs) -> Result<Code, Failure> {
    let normalise = match args.embd_normalize {
        2 => true,
        -1 => false,
        other => return Err(Failure::usage(format!("--embd-normalize: {other} is not supported, only 2 and -1"))),
    };
    let text = match &args.prompt {
        Some(text) => text.clone(),
        None => prompt::standard_input("text")?,
    };
    let gguf = load::open(&args.model, true)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let encode = |line: &str| Ok(tokenizer.encode_document(line)?);
    let inputs: Vec<Vec<u32>> = text.lines().map(encode).collect::<Result<_, Failure>>()?;
    if inputs.is_empty() || inputs.iter().any(Vec::is_empty) {
        return Err(Failure::usage("the text, or a line of it, is empty"));
    }
    let file_pooling = Pooling::from_metadata(gguf.metadata());
    let pooling = match args.pooling {
        Some(pooling) => pooling,
        None => file_pooling?.unwrap_or_default(),
    };
    let longest = inputs.iter().map(Vec::len).max().unwrap_or(1) as u32;
    let options =
        EngineOptions::default().context(args.ctx.unwrap_or(longest)).kv_type(args.kv_type).plan(args.precision.plan());
    let choice = DeviceChoice::choose_for(args.device.device.as_deref(), gguf.file_len()).await?;
    let fit = args.memory.plan(&choice, &gguf, options)?;
    let device = choice.open().await?;
    args.memory.report(&fit, choice.kv_type());
    let model = load::load(&device, &gguf, fit.memory.slots()).await?;
    let engine = Engine::new(&model, &fit.options).await?;
    let options = EmbedOptions::default().pooling(pooling).normalise(normalise);
    let mut vectors = Vec::new();
    for tokens in &inputs {
        vectors.push(engine.embed(tokens, &options).await?);
    }
    let json = match args.embd_output_format {
        Form::Array => json!(vectors),
        Form::Json => {
            let data: Vec<Value> = vectors
                .iter()
                .enumerate()
                .map(|(index, vector)| json!({"object": "embedding", "index": index, "embedding": vector}))
                .collect();
            json!({"object": "list", "data": data})
        }
    };
    output::print(&format!("{json}\n"))?;
    Ok(Code::Success)
}
