//! Generating a reply and writing it to standard output.

use std::time::{Duration, Instant};

use ferrum_wgpu::FinishReason;
use ferrum_wgpu::{Chat, ChatProgress, ChatReply, Engine, LookupStats};

use super::exit::Failure;
use super::interrupt::Interrupt;
use super::output::{note, print, print_reply};

/// The reason that a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop string was found.
    Text,
    /// The token limit was reached.
    Limit,
    /// The context is full.
    ContextFull,
    /// Ctrl-C.
    Interrupted,
}

impl Stop {
    /// Converts the reason that the model ended a reply; it has none where a stop string was found.
    fn new(reason: Option<FinishReason>) -> Self {
        match reason {
            None => Self::Text,
            Some(FinishReason::StopToken(_)) => Self::EndOfTurn,
            Some(FinishReason::ContextFull) => Self::ContextFull,
            Some(_) => Self::Limit,
        }
    }
}

/// A conversation whose replies are printed.
#[derive(Debug)]
pub struct Generator {
    pub engine: Engine,
    pub chat: Chat,
    /// The context size in tokens.
    pub context: u32,
    pub interrupt: Interrupt,
}

/// A number of tokens and the time they took.
#[derive(Debug, Default)]
struct Throughput {
    tokens: u32,
    time: Duration,
}

impl Throughput {
    fn show(&self) -> String {
        let seconds = self.time.as_secs_f64();
        let rate = if seconds > 0.0 { f64::from(self.tokens) / seconds } else { 0.0 };
        format!("{seconds:.3} s, {rate:.1} t/s")
    }
}

/// Statistics of a reply.
#[derive(Debug, Default)]
struct ReplyStats {
    /// Prompt tokens found in the KV cache.
    cached: u32,
    prompt: Throughput,
    generation: Throughput,
}

impl Generator {
    /// Writes the model's reply to standard output, followed by a newline, and statistics to standard error.
    pub async fn reply(&mut self, prompt: String) -> Result<Stop, Failure> {
        self.interrupt.begin();
        let lookup = self.engine.lookup();
        let mut reply = self.chat.say(prompt);
        let generated = generate(&mut reply, &self.interrupt).await;
        self.interrupt.end();
        // Also after an incomplete reply, so an error message starts on a new line.
        let ended = if generated.is_ok() || !reply.text().is_empty() { print("\n") } else { Ok(()) };
        let (stop, stats) = generated?;
        ended?;
        if stop == Stop::ContextFull {
            note(format_args!("note: the context of {} tokens is full", self.context));
        }
        let ReplyStats { cached, prompt, generation } = stats;
        let cached = if cached > 0 { format!(" ({cached} more cached)") } else { String::new() };
        note(format_args!("prompt: {} tokens{cached}, {}", prompt.tokens, prompt.show()));
        let drafts = drafts(&self.engine.lookup().since(&lookup));
        note(format_args!("generation: {} tokens, {}{drafts}", generation.tokens, generation.show()));
        Ok(stop)
    }
}

/// Describes what became of draft tokens, if there were any.
fn drafts(lookup: &LookupStats) -> String {
    lookup.acceptance().map_or_else(String::new, |acceptance| {
        let (steps, accepted, drafted) = (lookup.tokens_per_step(), lookup.accepted, lookup.drafted);
        format!(
            ", {steps:.2} tokens per step ({accepted} of {drafted} draft tokens accepted: {:.0} %)",
            100.0 * acceptance
        )
    })
}

/// Generates a reply and writes it.
async fn generate(reply: &mut ChatReply, interrupt: &Interrupt) -> Result<(Stop, ReplyStats), Failure> {
    let mut stats = ReplyStats::default();
    let mut start = Instant::now();
    let stop = loop {
        if interrupt.requested() {
            print_reply(&reply.cancel())?;
            break Stop::Interrupted;
        }
        let progress = reply.step().await?;
        if stats.prompt.time.is_zero() && progress != ChatProgress::Computed {
            stats.prompt.time = start.elapsed();
            start = Instant::now();
        }
        match progress {
            ChatProgress::Text(text) => print_reply(&text)?,
            ChatProgress::Finished => break Stop::new(reply.finish_reason()),
            _ => {}
        }
    };
    stats.cached = reply.cached();
    stats.prompt.tokens = reply.prompt_tokens().saturating_sub(stats.cached);
    stats.generation = Throughput { tokens: reply.tokens(), time: start.elapsed() };
    Ok((stop, stats))
}
