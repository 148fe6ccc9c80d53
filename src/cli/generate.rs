//! Generating a reply and writing it to standard output.

use std::time::{Duration, Instant};

use ferrum_wgpu::{FinishReason, GenerateOptions, Progress, Reply as Tokens, Session};
use ferrum_wgpu::{StopStrings, Tokenizer};

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

/// A session with the settings of its replies.
#[derive(Debug)]
pub struct Generator<'a> {
    pub session: Session,
    pub tokenizer: &'a Tokenizer,
    /// Sampling and length of replies.
    pub options: GenerateOptions,
    /// The stop strings.
    pub stops: StopStrings,
    pub interrupt: Interrupt,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    pub text: String,
    pub stop: Stop,
}

/// A number of tokens and the time they took.
#[derive(Debug, Default)]
struct Throughput {
    tokens: usize,
    time: Duration,
}

impl Throughput {
    fn show(&self) -> String {
        let seconds = self.time.as_secs_f64();
        let rate = if seconds > 0.0 { self.tokens as f64 / seconds } else { 0.0 };
        format!("{seconds:.3} s, {rate:.1} t/s")
    }
}

/// Statistics of a reply.
#[derive(Debug, Default)]
struct ReplyStats {
    /// Prompt tokens found in the KV cache.
    cached: usize,
    prompt: Throughput,
    generation: Throughput,
}

impl Generator<'_> {
    /// Writes the model's reply to standard output, followed by a newline, and statistics to standard error. The common
    /// prefix of `prompt` and the session's tokens is not computed again.
    pub async fn reply(&mut self, prompt: &[u32]) -> Result<Reply, Failure> {
        self.interrupt.begin();
        let mut text = String::new();
        let made = self.generate(prompt, &mut text).await;
        self.interrupt.end();
        // Also after an incomplete reply, so an error message starts on a new line.
        let ended = if made.is_ok() || !text.is_empty() { print("\n") } else { Ok(()) };
        let (stop, stats) = made?;
        ended?;
        if stop == Stop::ContextFull {
            note(format_args!("note: the context of {} tokens is full", self.session.capacity()));
        }
        let ReplyStats { cached, prompt, generation } = stats;
        let cached = if cached > 0 { format!(" ({cached} more cached)") } else { String::new() };
        note(format_args!("prompt: {} tokens{cached}, {}", prompt.tokens, prompt.show()));
        note(format_args!("generation: {} tokens, {}", generation.tokens, generation.show()));
        Ok(Reply { text, stop })
    }

    /// Generates the reply, writes it, and appends it to `text`.
    async fn generate(&mut self, prompt: &[u32], text: &mut String) -> Result<(Stop, ReplyStats), Failure> {
        let mut stats = ReplyStats::default();
        let cached = common_prefix(&self.session.tokens(), prompt).min(prompt.len().saturating_sub(1));
        self.session.truncate(cached as u32)?;
        let mut start = Instant::now();
        let mut stream = self.tokenizer.decode_stream();
        let mut stops = self.stops.clone();
        let new = prompt.get(cached..).unwrap_or_default();
        let mut tokens = self.session.generate(new, &self.options)?;
        let stop = loop {
            let progress = match next(&mut tokens, &self.interrupt).await? {
                Some(progress) => progress,
                None => break Stop::Interrupted,
            };
            if stats.prompt.time.is_zero() && progress != Progress::Computed {
                stats.prompt.time = start.elapsed();
                start = Instant::now();
            }
            match progress {
                Progress::Computed => {}
                Progress::Token(id) => {
                    stats.generation.tokens += 1;
                    let decoded = stream.push(id)?.unwrap_or_default();
                    let named = self.tokenizer.hidden_name(id).map(|name| stops.push_control(name));
                    if write(named.unwrap_or_else(|| stops.push(&decoded)), text)? {
                        break Stop::Text;
                    }
                }
                Progress::Finished(FinishReason::StopToken(_)) => break Stop::EndOfTurn,
                Progress::Finished(FinishReason::ContextFull) => break Stop::ContextFull,
                Progress::Finished(_) => break Stop::Limit,
            }
        };
        stats.cached = cached + tokens.cached() as usize;
        stats.prompt.tokens = prompt.len() - stats.cached;
        stats.generation.time = start.elapsed();
        drop(tokens);
        if stop != Stop::Text {
            let rest = stream.finish().unwrap_or_default();
            if !write(stops.push(&rest), text)? {
                write((stops.finish(), false), text)?;
            }
        }
        Ok((stop, stats))
    }
}

/// Returns the next event of a reply; `None` after Ctrl-C.
async fn next(tokens: &mut Tokens, interrupt: &Interrupt) -> Result<Option<Progress>, Failure> {
    if interrupt.requested() { Ok(None) } else { Ok(Some(tokens.step().await?)) }
}

/// Writes a piece and appends it to `text`. Returns whether a stop string was found.
fn write((piece, stopped): (String, bool), text: &mut String) -> Result<bool, Failure> {
    print_reply(&piece)?;
    text.push_str(&piece);
    Ok(stopped)
}

/// Returns the length of the common prefix.
fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_counted() {
        assert_eq!(common_prefix(&[1, 2, 3], &[1, 2, 4, 3]), 2);
        assert_eq!(common_prefix(&[1, 2], &[1, 2, 3]), 2);
        assert_eq!(common_prefix(&[], &[1]), 0);
    }
}
