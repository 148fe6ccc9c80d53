//! Parallel sequences, and timing of their steps.

use std::time::{Duration, Instant};

use ferrum_wgpu::Device;
use ferrum_wgpu::{Engine, GenerateOptions, Progress, Reply, SamplingOptions, Session};

use crate::cli::exit::{Code, Failure};
use crate::cli::interrupt::Interrupt;

/// The sequences of a batch.
#[derive(Debug)]
pub struct Sequences<'a> {
    device: &'a Device,
    interrupt: &'a Interrupt,
    sessions: Vec<Session>,
    vocab: u32,
    /// The number of tokens that each sequence starts from.
    depth: u32,
}

/// The result of a timed run.
#[derive(Debug)]
pub struct Run {
    pub time: Duration,
    /// The hash of the first sequence's generated tokens.
    pub tokens: u64,
    /// The number of times that the host waited for the device.
    pub waits: u64,
}

impl<'a> Sequences<'a> {
    pub fn new(device: &'a Device, engine: &Engine, interrupt: &'a Interrupt) -> Self {
        let sessions = (0..engine.options().sequences).map(|_| engine.session()).collect();
        Self { device, interrupt, sessions, vocab: engine.config().vocab, depth: 0 }
    }

    /// Fills all sequences with `depth` tokens.
    pub async fn fill(&mut self, depth: u32) -> Result<(), Failure> {
        if depth == self.depth {
            return Ok(());
        }
        self.depth = 0;
        if depth > 0 {
            let interrupt = self.interrupt;
            for reply in &mut self.begin(depth, 0)? {
                while next(reply, interrupt).await?.is_some() {}
            }
        }
        self.depth = depth;
        Ok(())
    }

    /// Processes a prompt of `n` tokens in each sequence, up to its first token.
    pub async fn prompt(&mut self, n: u32) -> Result<Run, Failure> {
        let (device, interrupt) = (self.device, self.interrupt);
        let (start, waits) = (Instant::now(), device.waits());
        let mut replies = self.begin(n, 1)?;
        let tokens = firsts(&mut replies, interrupt).await?;
        Ok(Run { time: start.elapsed(), tokens: hash(&tokens), waits: device.waits() - waits })
    }

    /// Generates `n` tokens in each sequence, after one given token and one sampled from it. All sequences share steps.
    pub async fn generate(&mut self, n: u32) -> Result<Run, Failure> {
        let (device, interrupt) = (self.device, self.interrupt);
        let mut replies = self.begin(1, n.saturating_add(1))?;
        let mut tokens = firsts(&mut replies, interrupt).await?;
        let (start, waits) = (Instant::now(), device.waits());
        for (i, reply) in replies.iter_mut().enumerate() {
            while let Some(token) = next(reply, interrupt).await? {
                if i == 0 {
                    tokens.push(token);
                }
            }
        }
        Ok(Run { time: start.elapsed(), tokens: hash(&tokens), waits: device.waits() - waits })
    }

    /// Truncates each sequence to `depth`, and requests `max_tokens` greedy tokens after `n` given ones, without stop
    /// tokens.
    fn begin(&mut self, n: u32, max_tokens: u32) -> Result<Vec<Reply>, Failure> {
        let (depth, vocab) = (self.depth, self.vocab);
        let sampling = SamplingOptions::greedy();
        let options = GenerateOptions::default().sampling(sampling).max_tokens(max_tokens).stop(Vec::new());
        let begun = self.sessions.iter_mut().zip(0..).map(|(session, sequence)| {
            session.truncate(depth)?;
            let given: Vec<_> = (depth..depth + n).map(|position| token(sequence, position, vocab)).collect();
            Ok(session.generate(&given, &options)?)
        });
        begun.collect()
    }
}

/// Returns the given token of a sequence at a position. Sequences differ, so they choose different experts.
fn token(sequence: u32, position: u32, vocab: u32) -> u32 {
    let number = u64::from(position) * 7919 + u64::from(sequence) * 104_729 + 1;
    (number % u64::from(vocab.max(1))) as u32
}

/// Waits for the first token of each reply; returns that of the first sequence.
async fn firsts(replies: &mut [Reply], interrupt: &Interrupt) -> Result<Vec<u32>, Failure> {
    let mut first = None;
    for reply in replies {
        let token = next(reply, interrupt).await?;
        first = first.or(token);
    }
    Ok(first.into_iter().collect())
}

/// Returns the next token of a reply.
async fn next(reply: &mut Reply, interrupt: &Interrupt) -> Result<Option<u32>, Failure> {
    loop {
        if interrupt.requested() {
            return Err(Failure::Error(Code::Interrupted, "interrupted".to_owned()));
        }
        match reply.step().await? {
            Progress::Computed => {}
            Progress::Token(token) => return Ok(Some(token)),
            Progress::Finished(_) => return Ok(None),
        }
    }
}

/// Returns the 64-bit FNV-1a hash of the tokens' bytes.
fn hash(tokens: &[u32]) -> u64 {
    let bytes = tokens.iter().flat_map(|token| token.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_fnv_1a() {
        assert_eq!(hash(&[]), 0xcbf2_9ce4_8422_2325);
        // "abcd", as its authors list it.
        assert_eq!(hash(&[u32::from_le_bytes(*b"abcd")]), 0xfc17_9f83_ee07_24dd);
    }

    #[test]
    fn tokens_are_in_the_vocabulary_and_differ() {
        let row = |sequence| (0..64).map(|position| token(sequence, position, 512)).collect::<Vec<_>>();
        assert!(row(3).iter().all(|token| *token < 512));
        assert_ne!(row(0), row(1));
        assert!(token(u32::MAX, u32::MAX, 1) == 0);
    }
}
