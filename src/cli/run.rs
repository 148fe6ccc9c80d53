//! The command `run`.

use std::path::PathBuf;

use clap::Args;
use ferrum_wgpu::Config;
use ferrum_wgpu::KvType;
use ferrum_wgpu::{Chat, Message};
use ferrum_wgpu::{Engine, EngineError, EngineOptions, Grammar, GrammarCompiler, Profile};

use super::args::{DeviceArg, LookupArg, PrecisionArg, SnapshotArgs, TuneArg, kv_type};
use super::chat::{PromptEncoder, TemplateChoice};
use super::device::DeviceChoice;
use super::exit::{Code, Failure};
use super::generate::{Generator, Stop};
use super::interrupt::Interrupt;
use super::memory::{MemoryArgs, expert_cache};
use super::output::{note, table};
use super::sampling::SamplingArgs;
use super::start::{self, ReadyEngine};
use super::{load, prompt, repl, template};

/// Reply to a prompt, or hold a conversation.
///
/// The reply goes to standard output, everything else to standard error. Without -p, the prompt is read from standard
/// input; on a terminal, `run` starts an interactive conversation.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The GGUF file, or the name of a model on the Hugging Face Hub: ORG/REPO[:QUANT].
    model: PathBuf,
    /// The prompt. Text piped to standard input comes before it.
    #[arg(short, long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the prompt from a file.
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Maximum number of tokens per reply; -1 is no limit but the context [default: -1].
    #[arg(
        short = 'n', long, visible_alias = "n-predict", value_name = "N", allow_negative_numbers = true,
        value_parser = token_limit
    )]
    max_tokens: Option<TokenLimit>,
    /// Chat template: a file in Jinja, or the name of one of the model file's templates.
    #[arg(long, value_name = "FILE|NAME")]
    chat_template: Option<String>,
    /// Use no chat template: the prompt is what the model continues, and control tokens are parsed in it.
    #[arg(long, conflicts_with_all = ["chat_template", "system", "think", "no_think"])]
    no_template: bool,
    /// Parse the names of control tokens in messages too, not only in the chat template.
    #[arg(long)]
    parse_special: bool,
    /// System message [default: none].
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Enable thinking, if the chat template supports the choice.
    #[arg(long)]
    think: bool,
    /// Disable thinking, if the chat template supports the choice.
    #[arg(long, conflicts_with = "think")]
    no_think: bool,
    /// Context size in tokens [default: the model's, at most 4096].
    #[arg(short, long, visible_alias = "ctx-size", value_name = "TOKENS")]
    ctx: Option<u32>,
    /// Data type of the KV cache [default: f16 if the device supports it, else f32].
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    kv_type: Option<KvType>,
    /// Stop string: end the reply before TEXT. May be repeated.
    #[arg(short = 'r', long, visible_alias = "reverse-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Constrain replies to JSON by the schema in a file. With a model that thinks, use --no-think.
    #[arg(short = 'j', long, value_name = "FILE", conflicts_with = "grammar")]
    json_schema: Option<PathBuf>,
    /// Constrain replies to the grammar in a file: Lark, or GBNF.
    #[arg(long, visible_alias = "grammar-file", value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// Print device times per stage at the end.
    #[arg(long)]
    profile: bool,
    /// Read the whole file into memory instead of memory-mapping it; safe if the file may be truncated while in use.
    #[arg(long)]
    no_mmap: bool,
    #[command(flatten)]
    lookup: LookupArg,
    #[command(flatten)]
    snapshots: SnapshotArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    precision: PrecisionArg,
    #[command(flatten)]
    tune: TuneArg,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// The maximum number of tokens of a reply, if any.
#[derive(Clone, Copy, Debug)]
struct TokenLimit(Option<u32>);

/// Parses a maximum number of tokens.
fn token_limit(text: &str) -> Result<TokenLimit, std::num::ParseIntError> {
    if text == "-1" { Ok(TokenLimit(None)) } else { text.parse().map(|n| TokenLimit(Some(n))) }
}

/// Runs the command. Options, file and prompt are validated before a device is opened.
pub async fn run(args: &RunArgs) -> Result<Code, Failure> {
    args.sampling.check()?;
    let from_file = args.file.as_deref().map(template::text).transpose()?.map(prompt::without_newline);
    let prompt = prompt::read(args.prompt.as_deref().or(from_file.as_deref()))?;
    let gguf = load::open(&args.model, !args.no_mmap)?;
    let config = Config::from_gguf(&gguf)?;
    let mut options = EngineOptions::default()
        .context(args.ctx)
        .kv_type(args.kv_type)
        .plan(args.precision.plan())
        .lookup(args.lookup.lookup)
        .profile(args.profile);
    options = args.snapshots.set(options);
    let mut device_choice = None;
    if args.memory.fit() {
        // The context size depends on the device.
        let chosen = DeviceChoice::choose_for(args.device.device.as_deref(), gguf.file_len()).await?;
        options = args.memory.plan(&chosen, &gguf, options)?.options;
        device_choice = Some(chosen);
    }
    let context = options.context_for(config.context_length)?;
    let plan = Engine::memory(&gguf, &options, args.kv_type.unwrap_or_default())?;
    tracing::info!(weights = plan.weights, kv = plan.kv, activations = plan.activations, "memory in bytes");
    let think = (args.think || args.no_think).then_some(args.think);
    let template = match (&args.chat_template, args.no_template) {
        (_, true) => TemplateChoice::None,
        (Some(name), _) => TemplateChoice::Given(name),
        (None, _) => TemplateChoice::OfFile,
    };
    let encoder = PromptEncoder::new(&gguf, &config, template, think, args.parse_special)?;
    let (sampling, described) = args.sampling.options(gguf.metadata(), config.vocab)?;
    if let Some(prompt) = &prompt {
        let system = args.system.iter().map(Message::system);
        encoder.check(&system.chain([Message::user(prompt)]).collect::<Vec<_>>(), context)?;
    }

    let grammar = match (&args.json_schema, &args.grammar) {
        (Some(file), _) => Some(Grammar::JsonSchema(template::text(file)?)),
        (_, Some(file)) => Some(Grammar::Grammar(template::text(file)?)),
        _ => None,
    };
    let grammar = match grammar {
        Some(grammar) => {
            let invalid = |error| Failure::usage(format!("the grammar is invalid: {error}"));
            let compiler = GrammarCompiler::new(&encoder.tokenizer).map_err(invalid)?;
            compiler.compile(&grammar).map_err(invalid)?;
            Some((compiler, grammar))
        }
        None => None,
    };

    let device_choice = match device_choice {
        Some(device_choice) => device_choice,
        None => DeviceChoice::choose_for(args.device.device.as_deref(), gguf.file_len()).await?,
    };
    let fit = args.memory.plan(&device_choice, &gguf, options)?;
    let device = device_choice.open().await?;
    args.memory.report(&fit, device_choice.kv_type());
    let ReadyEngine { model, engine, times } = start::start(&device, gguf, &fit, args.tune).await?;
    let (seconds, kv_type) = (times.all.as_secs_f64(), engine.kv_type().await.name());
    note(format_args!("loaded in {seconds:.3} s: context of {context} tokens, {kv_type} KV cache"));
    for line in &encoder.notes {
        note(format_args!("note: {line}"));
    }
    note(format_args!("{described}"));

    // At the prompt of a conversation, Ctrl-C quits normally.
    let interrupt = Interrupt::install(if prompt.is_none() { Code::Success } else { Code::Interrupted })?;
    let mut builder = Chat::builder().sampling(sampling).stop(&args.stop).render(encoder.options);
    if let Some(TokenLimit(Some(tokens))) = args.max_tokens {
        builder = builder.max_tokens(tokens);
    }
    if let Some(system) = &args.system {
        builder = builder.system(system);
    }
    let mut chat = builder.assemble(&engine, encoder.tokenizer, encoder.template);
    if let Some((compiler, grammar)) = grammar {
        let compile = move || compiler.compile(&grammar).map_err(|error| EngineError::Constraint(error.to_string()));
        chat.set_constraint(Some(Box::new(compile)));
    }
    let mut generator = Generator { engine: engine.clone(), chat, context, interrupt };
    let code = match prompt {
        None => repl::repl(&mut generator).await?,
        Some(prompt) => match generator.reply(prompt).await? {
            Stop::Interrupted => Code::Interrupted,
            Stop::EndOfTurn | Stop::Text | Stop::Limit | Stop::ContextFull => Code::Success,
        },
    };
    if let Some(paging) = model.expert_cache() {
        note(format_args!("{}", expert_cache(&paging)));
    }
    if args.profile {
        note(format_args!("{}", profile(&engine.profile().await)));
    }
    Ok(code)
}

/// Formats the profile as a table.
fn profile(profile: &Profile) -> String {
    let mut rows = vec![["phase", "stage", "dispatches", "ms", "share", "us/token"].map(str::to_owned)];
    for (phase, total) in &profile.phases {
        let all: f64 = total.stages.values().map(|stage| stage.time.as_secs_f64()).sum();
        let row = |stage: &str, dispatches: u64, seconds: f64| {
            [
                phase.name().to_owned(),
                stage.to_owned(),
                dispatches.to_string(),
                format!("{:.2}", seconds * 1e3),
                format!("{:.1} %", if all > 0.0 { 100.0 * seconds / all } else { 0.0 }),
                format!("{:.1}", seconds * 1e6 / total.rows.max(1) as f64),
            ]
        };
        for (stage, of_stage) in &total.stages {
            rows.push(row(stage.name(), of_stage.dispatches, of_stage.time.as_secs_f64()));
        }
        let passes = format!("all (passes: {}, tokens: {})", total.passes, total.rows);
        rows.push(row(&passes, total.stages.values().map(|stage| stage.dispatches).sum(), all));
    }
    table(&rows, &[2, 3, 4, 5])
}
