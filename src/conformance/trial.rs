//! The running of one case: one dispatch between guards.

use super::Outcome;
use crate::gpu::{Access, Binding, Buffer, Device, Expect, GpuError, Op, Plan, Program, Readback, host_slots};

/// A case with its types erased, as far as running it needs them.
pub(super) struct Trial {
    pub(super) op: Box<dyn Op>,
    pub(super) name: String,
    /// The buffers' contents before the dispatch.
    pub(super) words: Vec<Vec<u32>>,
    /// What they must hold after it.
    pub(super) expected: Vec<Option<Expect>>,
}

/// The guard of a binding: behind what is read a NaN, as f32 and as half, and an index far out of range; behind what is
/// written no NaN, since a NaN that is computed with may stay the same bit for bit.
fn guard(binding: &Binding) -> u32 {
    match binding.access {
        Access::Read => 0x7fc0_dead,
        Access::Write => 0xdead_beef,
    }
}

/// Guard words behind every buffer: who reads them computes NaN, who writes them is found out.
const GUARDS: usize = 64;

impl Trial {
    pub(super) async fn run(self, device: &Device) -> Result<Outcome, GpuError> {
        let Self { op, name, words: mut before, expected } = self;
        let bindings = op.bindings();
        let mut after = before.clone();
        for (binding, words) in bindings.iter().zip(&mut after) {
            words.resize(words.len() + GUARDS, guard(binding));
        }
        let mut defined = None;
        if device.is_cpu() {
            defined = op.reference(host_slots(&bindings, &mut before));
            op.run_cpu(host_slots(&bindings, &mut after));
        } else {
            dispatch(device, op, &bindings, &mut after).await?;
        }
        let (mut worst, mut at) = judge(&bindings, &before, &after, &expected);
        if let Some(defined) = defined {
            // Cases have their own way to what they expect, at least where weights are decoded.
            let (off, place) = agreement(&bindings, &defined, &expected);
            if off > worst {
                (worst, at) = (off, place);
            }
        }
        Ok(Outcome { case: name, worst, at })
    }
}

/// Runs `op` on buffers that hold `words`, and reads all of them back.
async fn dispatch(
    device: &Device,
    op: Box<dyn Op>,
    bindings: &[Binding],
    words: &mut [Vec<u32>],
) -> Result<(), GpuError> {
    let mut buffers: Vec<Option<Buffer<u32>>> = Vec::new();
    for (binding, words) in bindings.iter().zip(words.iter()) {
        buffers.push(if binding.present { Some(device.upload(binding.name, words).await?) } else { None });
    }
    let mut program = Program::new(device);
    program.prepare(device, Plan::single(op, &buffers)).await?;
    program.run(device).await?;
    let most = words.iter().map(Vec::len).max().unwrap_or(0);
    let readback = Readback::new::<u32>(device, most as u64, 1).await?;
    for (words, buffer) in words.iter_mut().zip(&buffers) {
        if let Some(buffer) = buffer {
            *words = readback.read(device, buffer, words.len() as u64).await?;
        }
    }
    Ok(())
}

/// The worst error as a share of its bound, and where it is.
fn judge(bindings: &[Binding], before: &[Vec<u32>], after: &[Vec<u32>], expected: &[Option<Expect>]) -> (f64, String) {
    let mut worst = (0.0, String::new());
    for (i, binding) in bindings.iter().enumerate().filter(|(_, binding)| binding.present) {
        let name = binding.name;
        let (before, expected) =
            (before.get(i).map_or(&[][..], Vec::as_slice), expected.get(i).and_then(Option::as_ref));
        let (words, guards) = match after.get(i).and_then(|words| words.split_at_checked(before.len())) {
            Some((words, guards)) if guards.len() == GUARDS => (words, guards),
            _ => return (f64::INFINITY, format!("{name} was not read back")),
        };
        if let Some(at) = guards.iter().position(|word| *word != guard(binding)) {
            return (f64::INFINITY, format!("{name} was written {at} words behind its end"));
        }
        match (binding.access, expected) {
            (Access::Read, _) => {
                if let Some(at) = before.iter().zip(words).position(|(before, after)| before != after) {
                    return (f64::INFINITY, format!("{name}[{at}], which is only read, was changed"));
                }
            }
            (Access::Write, None) => return (f64::INFINITY, format!("the case does not say what {name} must hold")),
            (Access::Write, Some(expected)) => {
                if let Some(found) = expected.worst(words).filter(|found| found.error_ratio > worst.0) {
                    worst = (found.error_ratio, format!("{name}{found}"));
                }
            }
        }
    }
    worst
}

/// The worst distance between a kernel's definition and what its case expects, as a share of the case's bound.
fn agreement(bindings: &[Binding], defined: &[Option<Expect>], expected: &[Option<Expect>]) -> (f64, String) {
    let mut worst = (0.0, String::new());
    for ((binding, defined), expected) in bindings.iter().zip(defined).zip(expected) {
        let (Some(defined), Some(expected)) = (defined, expected) else { continue };
        if let Some(found) = expected.worst(&defined.words()).filter(|found| found.error_ratio > worst.0) {
            worst = (found.error_ratio, format!("by the definition {}{found}", binding.name));
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(name: &'static str, access: Access) -> Binding {
        Binding { name, access, element: "f32", present: true }
    }

    fn guarded(binding: &Binding, words: &[u32]) -> Vec<u32> {
        [words, &[guard(binding); GUARDS]].concat()
    }

    #[test]
    fn guards_inputs_and_outputs_are_judged() {
        let bindings = [binding("x", Access::Read), binding("y", Access::Write)];
        let before = [vec![1, 2], vec![0]];
        let near = [None, Some(Expect::Near(vec![(1.0, 0.5)]))];
        let one = 1.25f32.to_bits();
        let judged =
            |x: &[u32], y: Vec<u32>, expected| judge(&bindings, &before, &[guarded(&bindings[0], x), y], expected);
        let y = |word: u32| guarded(&bindings[1], &[word]);

        let (worst, at) = judged(&[1, 2], y(one), &near);
        assert!(worst == 0.5 && at.starts_with("y[0] is 1.25"), "{worst} {at}");
        assert_eq!(judged(&[1, 3], y(one), &near).1, "x[1], which is only read, was changed");
        assert_eq!(judged(&[1, 2], y(one), &[None, None]).1, "the case does not say what y must hold");
        let mut overrun = y(one);
        overrun[4] = 0;
        let (worst, at) = judged(&[1, 2], overrun, &near);
        assert!(worst.is_infinite() && at == "y was written 3 words behind its end", "{at}");
        assert!(judged(&[1, 2], y(f32::NAN.to_bits()), &near).0.is_infinite());
    }
}
