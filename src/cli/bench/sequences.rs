//! Sequences that are computed side by side, and timed.

use std::time::{Duration, Instant};

use ferrum_wgpu::engine::{Engine, GenerateOptions, Progress, Reply, SamplingOptions, Session};
use ferrum_wgpu::gpu::Device;

use crate::cli::exit::{Code, Failure};
use crate::cli::interrupt::Interrupt;

/// As many sequences as an engine computes at once.
#[derive(Debug)]
pub struct Sequences<'a> {
    device: &'a Device,
    interrupt: &'a Interrupt,
    sessions: Vec<Session>,
    vocab: u32,
    /// Tokens that all of them begin with, and go back to.
    depth: u32,
}

/// What was timed.
#[derive(Debug)]
pub struct Run {
    pub time: Duration,
    /// A hash of what the first sequence was continued with.
    pub tokens: u64,
    /// How often the host waited for the device meanwhile.
    pub waits: u64,
}

impl<'a> Sequences<'a> {
    pub fn new(device: &'a Device, engine: &Engine, interrupt: &'a Interrupt) -> Self {
        let sessions = (0..engine.options().sequences).map(|_| engine.session()).collect();
        Self { device, interrupt, sessions, vocab: engine.config().vocab, depth: 0 }
    }

    /// Has all sequences begin with `depth` tokens.
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

    /// Computes a prompt of `n` tokens in every sequence, until each has its first token.
    pub async fn prompt(&mut self, n: u32) -> Result<Run, Failure> {
        let (device, interrupt) = (self.device, self.interrupt);
        let (start, waits) = (Instant::now(), device.waits());
        let mut replies = self.begin(n, 1)?;
        let tokens = firsts(&mut replies, interrupt).await?;
        Ok(Run { time: start.elapsed(), tokens: hash(&tokens), waits: device.waits() - waits })
    }

    /// Generates `n` tokens in every sequence, after one that is given and one that is drawn from it. All go on in the
    /// same steps.
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

    /// Goes back to the beginning, and asks for `most` tokens after `n` that are given, greedily and whatever they are.
    fn begin(&mut self, n: u32, most: u32) -> Result<Vec<Reply<'_>>, Failure> {
        let (depth, vocab) = (self.depth, self.vocab);
        let sampling = SamplingOptions::greedy();
        let options = GenerateOptions { sampling, max_tokens: Some(most), stop: Vec::new() };
        let begun = self.sessions.iter_mut().zip(0..).map(|(session, sequence)| {
            session.truncate(depth);
            let given: Vec<_> = (depth..depth + n).map(|position| token(sequence, position, vocab)).collect();
            Ok(session.generate(&given, &options)?)
        });
        begun.collect()
    }
}

/// The token that is given to a sequence at a position: no two sequences have the same, as they would then choose the same
/// experts.
fn token(sequence: u32, position: u32, vocab: u32) -> u32 {
    let number = u64::from(position) * 7919 + u64::from(sequence) * 104_729 + 1;
    (number % u64::from(vocab.max(1))) as u32
}

/// Waits until all have their first token; gives that of the first sequence.
async fn firsts(replies: &mut [Reply<'_>], interrupt: &Interrupt) -> Result<Vec<u32>, Failure> {
    let mut first = None;
    for reply in replies {
        let token = next(reply, interrupt).await?;
        first = first.or(token);
    }
    Ok(first.into_iter().collect())
}

/// The next token of a reply.
async fn next(reply: &mut Reply<'_>, interrupt: &Interrupt) -> Result<Option<u32>, Failure> {
    loop {
        if interrupt.requested() {
            return Err(Failure::Error(Code::Interrupted, "interrupted".to_owned()));
        }
        match reply.step().await? {
            Progress::Computed => {}
            Progress::Token(token) => return Ok(Some(token)),
            Progress::Ended(_) => return Ok(None),
        }
    }
}

/// FNV-1a of the tokens' bytes, 64 bits.
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
