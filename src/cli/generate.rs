//! Replies: feeding the prompt, sampling, and writing the text as it comes.

use std::time::{Duration, Instant};

use ferrum_wgpu::engine::{Sampler, Session};
use ferrum_wgpu::text::Tokenizer;

use super::exit::Failure;
use super::interrupt::Interrupt;
use super::output::{note, print};

/// Tokens of a prompt that are computed between two looks at Ctrl-C.
const CHUNK: usize = 512;

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its turn.
    EndOfTurn,
    /// It has as many tokens as were asked for.
    Limit,
    /// No more tokens fit.
    ContextFull,
    /// Ctrl-C.
    Interrupted,
}

/// A sequence that replies are added to.
#[derive(Debug)]
pub struct Generator<'a> {
    pub session: Session,
    pub tokenizer: &'a Tokenizer,
    pub sampler: Sampler,
    /// The most tokens of a reply.
    pub limit: Option<u32>,
    pub interrupt: Interrupt,
    /// The tokens that the session holds.
    computed: Vec<u32>,
}

/// What a reply was made of.
#[derive(Debug)]
pub struct Reply {
    pub text: String,
    pub stop: Stop,
}

/// Tokens and the time they took.
#[derive(Debug, Default)]
struct Timing {
    tokens: usize,
    time: Duration,
}

impl Timing {
    fn show(&self) -> String {
        let seconds = self.time.as_secs_f64();
        let rate = if seconds > 0.0 { self.tokens as f64 / seconds } else { 0.0 };
        format!("{seconds:.3} s, {rate:.1} t/s")
    }
}

impl<'a> Generator<'a> {
    /// One that has computed nothing.
    pub fn new(
        session: Session,
        tokenizer: &'a Tokenizer,
        sampler: Sampler,
        limit: Option<u32>,
        interrupt: Interrupt,
    ) -> Self {
        Self { session, tokenizer, sampler, limit, interrupt, computed: Vec::new() }
    }

    /// Writes the model's reply to `prompt` to standard output, with a newline at its end, and on standard error what
    /// is to be said about it. Of the prompt only what differs from the tokens computed before is computed.
    pub async fn reply(&mut self, prompt: &[u32]) -> Result<Reply, Failure> {
        self.interrupt.begin();
        let mut text = String::new();
        let made = self.make(prompt, &mut text).await;
        self.interrupt.end();
        // Also after half a reply: what is said next is to have a line of its own.
        let ended = if made.is_ok() || !text.is_empty() { print("\n") } else { Ok(()) };
        let (stop, count, [prompt_time, reply_time]) = made?;
        ended?;
        if stop == Stop::ContextFull {
            note(format_args!("note: the context of {} tokens is full", self.session.capacity()));
        }
        let reused = prompt.len() - prompt_time.tokens;
        let reused = if reused > 0 { format!(" (and {reused} known)") } else { String::new() };
        note(format_args!("prompt: {} tokens{reused}, {}", prompt_time.tokens, prompt_time.show()));
        note(format_args!("generation: {count} tokens, {}", reply_time.show()));
        Ok(Reply { text, stop })
    }

    /// Adds the reply to `text` while it writes it. Gives why it ended, its tokens, and the tokens and times of the two
    /// phases: the last token of a reply need not be computed.
    async fn make(&mut self, prompt: &[u32], text: &mut String) -> Result<(Stop, u32, [Timing; 2]), Failure> {
        let [mut fed, mut drawn] = [Timing::default(), Timing::default()];
        let known = common_prefix(&self.computed, prompt).min(prompt.len().saturating_sub(1));
        self.computed.truncate(known);
        self.session.truncate(known as u32);

        let start = Instant::now();
        let mut logits = Vec::new();
        for chunk in prompt.get(known..).unwrap_or_default().chunks(CHUNK) {
            if self.interrupt.requested() {
                break;
            }
            logits = self.forward(chunk).await?;
            fed.tokens += chunk.len();
        }
        fed.time = start.elapsed();

        let start = Instant::now();
        let mut stream = self.tokenizer.decode_stream();
        let mut count = 0;
        let stop = loop {
            if self.interrupt.requested() {
                break Stop::Interrupted;
            }
            if self.limit.is_some_and(|limit| count >= limit) {
                break Stop::Limit;
            }
            let id = self.sampler.sample(&logits)?;
            if self.tokenizer.is_stop(id) {
                break Stop::EndOfTurn;
            }
            if self.session.len() >= self.session.capacity() {
                break Stop::ContextFull;
            }
            count += 1;
            if let Some(piece) = stream.push(id)? {
                print(&piece)?;
                text.push_str(&piece);
            }
            if self.limit.is_none_or(|limit| count < limit) {
                logits = self.forward(&[id]).await?;
                drawn.tokens += 1;
            }
        };
        if let Some(rest) = stream.finish() {
            print(&rest)?;
            text.push_str(&rest);
        }
        drawn.time = start.elapsed();
        Ok((stop, count, [fed, drawn]))
    }

    async fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Failure> {
        let logits = self.session.forward(tokens).await?;
        self.computed.extend_from_slice(tokens);
        Ok(logits)
    }
}

/// How many tokens two sequences have in common from the start.
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
