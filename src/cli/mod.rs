//! The command line: commands, logging, and error reporting.

mod args;
#[cfg(feature = "serve")]
mod batch;
mod bench;
mod cache;
mod chat;
mod conformance;
mod device;
mod devices;
mod embed;
mod exit;
mod generate;
mod hub;
mod info;
mod interrupt;
mod kernels;
mod line_editor;
mod load;
mod logits;
mod memory;
mod output;
mod plan;
mod prompt;
mod pull;
mod repl;
mod run;
mod sampling;
#[cfg(feature = "serve")]
mod serve;
mod start;
mod template;
mod tokenize;
mod tune;

use std::ffi::OsString;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use exit::{Code, Failure};

/// Run mixture-of-experts language models from GGUF files on any GPU.
#[derive(Debug, Parser)]
#[command(name = "ferrum-wgpu", version, after_help = Code::table())]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log to standard error (-v: info, -vv: debug) [default: RUST_LOG, else errors only].
    #[arg(short, long, global = true, display_order = 100, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    #[cfg(feature = "serve")]
    Batch(batch::BatchArgs),
    Bench(bench::BenchArgs),
    Tune(tune::TuneArgs),
    Logits(logits::LogitsArgs),
    #[command(visible_alias = "embedding")]
    Embed(embed::EmbedArgs),
    Devices(devices::DevicesArgs),
    Info(info::InfoArgs),
    Tokenize(tokenize::TokenizeArgs),
    Template(template::TemplateArgs),
    Pull(pull::PullArgs),
    #[command(visible_alias = "ls")]
    List(pull::ListArgs),
    Rm(pull::RmArgs),
    Conformance(conformance::ConformanceArgs),
    Kernels(kernels::KernelsArgs),
}

/// Parses the arguments, runs the command, and reports errors.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    let guarded = catch_unwind(AssertUnwindSafe(|| {
        let cli = match Cli::try_parse_from(std::env::args_os().map(long_name)) {
            Ok(cli) => cli,
            Err(error) => {
                // Help and version go to standard output, usage errors to standard error.
                let _ = error.print();
                return if error.use_stderr() { Code::Usage } else { Code::Success };
            }
        };
        start_logging(cli.verbose);
        ferrum_wgpu::block_on(execute(&cli.command)).unwrap_or_else(|failure| failure.report())
    }));
    // The hook has printed the message.
    guarded.unwrap_or(Code::Runtime).into()
}

/// Returns the long name of an option that llama.cpp spells with one dash and several letters.
fn long_name(argument: OsString) -> OsString {
    match argument.to_str() {
        Some("-sys") => "--system".into(),
        Some("-dev") => "--device".into(),
        Some("-np") => "--parallel".into(),
        Some("-ctk" | "-ctv") => "--kv-type".into(),
        _ => argument,
    }
}

async fn execute(command: &Command) -> Result<Code, Failure> {
    match command {
        Command::Run(args) => run::run(args).await,
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::serve(args).await,
        #[cfg(feature = "serve")]
        Command::Batch(args) => batch::batch(args).await,
        Command::Bench(args) => bench::bench(args).await,
        Command::Tune(args) => tune::tune(args).await,
        Command::Logits(args) => logits::logits(args).await,
        Command::Embed(args) => embed::embed(args).await,
        Command::Devices(args) => devices::devices(args).await,
        Command::Info(args) => info::info(args).await,
        Command::Tokenize(args) => tokenize::tokenize(args),
        Command::Template(args) => template::template(args),
        Command::Pull(args) => pull::pull(args),
        Command::List(args) => pull::list(args),
        Command::Rm(args) => pull::rm(args),
        Command::Conformance(args) => conformance::conformance(args).await,
        Command::Kernels(args) => kernels::kernels(args).await,
    }
}

/// Starts logging to standard error: errors only, unless `-v` or RUST_LOG set another level.
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(wanted) if verbose == 0 && !wanted.is_empty() => EnvFilter::try_new(wanted).unwrap_or_else(|error| {
            output::note(format_args!("note: RUST_LOG is ignored: {}", output::one_line(&error.to_string())));
            EnvFilter::new(level)
        }),
        _ => EnvFilter::new(level),
    };
    // Fails only if a logger is already installed.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().try_init();
}

/// Reports a panic on one line.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let place = panic.location().map(|location| {
        let file = location.file().rsplit(['/', '\\']).next().unwrap_or_default();
        format!(" ({file}:{})", location.line())
    });
    let message = output::one_line(message.unwrap_or("unknown"));
    output::note(format_args!("error: internal error: {message}{}", place.unwrap_or_default()));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
