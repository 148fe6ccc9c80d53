//! `run`: answers a prompt, or talks.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use ferrum_wgpu::engine::{Session, SessionOptions};
use ferrum_wgpu::kernels::KvType;
use ferrum_wgpu::model::{Config, MemoryPlan};
use ferrum_wgpu::text::Message;

use super::args::{DeviceArg, kv_type};
use super::chat::Chat;
use super::device::Place;
use super::exit::{Code, Failure};
use super::generate::{Generator, Stop};
use super::interrupt::Interrupt;
use super::output::note;
use super::sampling::SamplingArgs;
use super::{load, prompt, repl};

/// Answer a prompt, or talk with the model.
///
/// The answer goes to standard output, everything else to standard error. Without -p the prompt is what is piped into
/// standard input; if that is a terminal, one can talk.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The GGUF file.
    model: PathBuf,
    /// The prompt.
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// The most tokens of an answer; without it as many as the model makes and the context holds.
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<u32>,
    /// A system message; without it there is none.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Have the model think before it answers, if its template knows the choice.
    #[arg(long)]
    think: bool,
    /// Have it answer without thinking.
    #[arg(long, conflicts_with = "think")]
    no_think: bool,
    /// Context in tokens; without it the model's own, 4096 at most.
    #[arg(long, value_name = "TOKENS")]
    ctx: Option<u32>,
    /// How the KV cache is stored; without it f16 where the device can, else f32.
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    kv_type: Option<KvType>,
    /// Read the whole file into memory instead of mapping it.
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Runs the model. All that can be wrong with options, file and prompt is found before a device is touched.
pub async fn run(args: &RunArgs) -> Result<Code, Failure> {
    args.sampling.check()?;
    let prompt = prompt::read(args.prompt.as_deref())?;
    let gguf = load::open(&args.model, !args.no_mmap)?;
    let config = Config::from_gguf(&gguf)?;
    let options = SessionOptions { context: args.ctx, kv_type: args.kv_type, ..Default::default() };
    let context = options.context_for(config.context_length)?;
    let plan = MemoryPlan::new(&gguf, context, args.kv_type.unwrap_or_default(), options.prefill_rows)?;
    tracing::info!(weights = plan.weights, kv = plan.kv, activations = plan.activations, "memory in bytes");
    let think = (args.think || args.no_think).then_some(args.think);
    let chat = Chat::new(&gguf, &config, think)?;
    let (sampler, sampling) = args.sampling.sampler(gguf.metadata())?;
    let mut conversation: Vec<Message> = args.system.iter().map(Message::system).collect();
    let ids = match prompt {
        Some(prompt) => {
            conversation.push(Message::user(prompt));
            Some(chat.encode(&conversation, context)?)
        }
        None => None,
    };

    let place = Place::choose_for(args.device.device.as_deref(), gguf.file_len()).await?;
    let device = place.open().await?;
    let start = Instant::now();
    let model = load::load(&device, &gguf).await?;
    // A file that was read as a whole takes memory.
    drop(gguf);
    let session = Session::new(&model, &options).await?;
    let (seconds, kv_type) = (start.elapsed().as_secs_f64(), session.kv_type().name());
    note(format_args!("loaded in {seconds:.3} s: context of {context} tokens, {kv_type} KV cache"));
    if chat.assumed_chatml {
        note(format_args!("note: the file has no chat template; ChatML is used"));
    }
    note(format_args!("{sampling}"));

    // At the prompt of a conversation Ctrl-C is one of the ways to quit.
    let interrupt = Interrupt::install(if ids.is_none() { Code::Success } else { Code::Interrupted })?;
    let mut generator = Generator::new(session, &chat.tokenizer, sampler, args.max_tokens, interrupt);
    match ids {
        None => repl::repl(&chat, &mut generator, conversation).await,
        Some(ids) => Ok(match generator.reply(&ids).await?.stop {
            Stop::Interrupted => Code::Interrupted,
            Stop::EndOfTurn | Stop::Limit | Stop::ContextFull => Code::Success,
        }),
    }
}
