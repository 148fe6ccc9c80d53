//! Replies: feeding the prompt, and writing the text as it comes.

use std::time::{Duration, Instant};

use ferrum_wgpu::engine::{GenerateOptions, Progress, Reply as Tokens, Session, Stop as EngineStop};
use ferrum_wgpu::text::{StopStrings, Tokenizer};

use super::exit::Failure;
use super::interrupt::Interrupt;
use super::output::{note, print};

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop string came.
    Text,
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
    /// How tokens are drawn, and how many.
    pub options: GenerateOptions,
    /// Strings at which a reply ends.
    pub stops: StopStrings,
    pub interrupt: Interrupt,
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

/// How a reply came about.
#[derive(Debug, Default)]
struct Course {
    /// Tokens of the prompt that had not to be computed.
    known: usize,
    prompt: Timing,
    reply: Timing,
}

impl Generator<'_> {
    /// Writes the model's reply to `prompt` to standard output, with a newline at its end, and on standard error what
    /// is to be said about it. Of the prompt only what differs from the tokens computed before is computed.
    pub async fn reply(&mut self, prompt: &[u32]) -> Result<Reply, Failure> {
        self.interrupt.begin();
        let mut text = String::new();
        let made = self.make(prompt, &mut text).await;
        self.interrupt.end();
        // Also after half a reply: what is said next is to have a line of its own.
        let ended = if made.is_ok() || !text.is_empty() { print("\n") } else { Ok(()) };
        let (stop, course) = made?;
        ended?;
        if stop == Stop::ContextFull {
            note(format_args!("note: the context of {} tokens is full", self.session.capacity()));
        }
        let Course { known, prompt, reply } = course;
        let known = if known > 0 { format!(" (and {known} known)") } else { String::new() };
        note(format_args!("prompt: {} tokens{known}, {}", prompt.tokens, prompt.show()));
        note(format_args!("generation: {} tokens, {}", reply.tokens, reply.show()));
        Ok(Reply { text, stop })
    }

    /// Adds the reply to `text` while it writes it. Gives why it ended, and how it came about.
    async fn make(&mut self, prompt: &[u32], text: &mut String) -> Result<(Stop, Course), Failure> {
        let mut course = Course::default();
        let held = common_prefix(&self.session.tokens(), prompt).min(prompt.len().saturating_sub(1));
        self.session.truncate(held as u32);
        let mut start = Instant::now();
        let mut stream = self.tokenizer.decode_stream();
        let mut stops = self.stops.clone();
        let new = prompt.get(held..).unwrap_or_default();
        let mut tokens = self.session.generate(new, &self.options)?;
        let stop = loop {
            let progress = match next(&mut tokens, &self.interrupt).await? {
                Some(progress) => progress,
                None => break Stop::Interrupted,
            };
            if course.prompt.time.is_zero() && progress != Progress::Computed {
                course.prompt.time = start.elapsed();
                start = Instant::now();
            }
            match progress {
                Progress::Computed => {}
                Progress::Token(id) => {
                    course.reply.tokens += 1;
                    let Some(piece) = stream.push(id)? else { continue };
                    if write(&mut stops, &piece, text)? {
                        break Stop::Text;
                    }
                }
                Progress::Ended(EngineStop::Token(_)) => break Stop::EndOfTurn,
                Progress::Ended(EngineStop::Limit) => break Stop::Limit,
                Progress::Ended(EngineStop::ContextFull) => break Stop::ContextFull,
            }
        };
        course.known = held + tokens.cached() as usize;
        course.prompt.tokens = prompt.len() - course.known;
        course.reply.time = start.elapsed();
        drop(tokens);
        if stop != Stop::Text {
            let rest = stream.finish().unwrap_or_default();
            if !write(&mut stops, &rest, text)? {
                let rest = stops.finish();
                print(&rest)?;
                text.push_str(&rest);
            }
        }
        Ok((stop, course))
    }
}

/// What comes next of a reply; `None` after Ctrl-C.
async fn next(tokens: &mut Tokens<'_>, interrupt: &Interrupt) -> Result<Option<Progress>, Failure> {
    if interrupt.requested() { Ok(None) } else { Ok(Some(tokens.step().await?)) }
}

/// Writes a piece, and adds it to `text`, up to a stop string; gives whether there was one.
fn write(stops: &mut StopStrings, piece: &str, text: &mut String) -> Result<bool, Failure> {
    let (piece, stopped) = stops.push(piece);
    print(&piece)?;
    text.push_str(&piece);
    Ok(stopped)
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
