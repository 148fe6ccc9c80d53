//! Execution of one test case, with guard words behind every buffer.

use crate::gpu::{
    Access, Binding, Buffer, Data, Device, Expect, Expected, GpuError, Kernel, Op, Plan, Program, Readback, erase,
    error_chain, host_slots,
};

/// The result of a test case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case's name.
    pub case: String,
    /// The largest error ratio `|found − exact| / bound`: a failure above 1, infinite for an error without a size.
    pub worst: f64,
    /// The place of that error, with the value found. Empty if there is none.
    pub at: String,
}

impl Outcome {
    /// Returns whether it is within the bound.
    pub fn passed(&self) -> bool {
        self.worst <= 1.0
    }
}

/// A test case without its kernel's types.
pub(crate) struct Trial {
    op: Box<dyn Op>,
    name: String,
    /// The buffers before the dispatch.
    words: Vec<Vec<u32>>,
    /// The expected buffers after it.
    expected: Vec<Option<Expect>>,
}

/// Returns the guard word of a binding. Behind a read buffer it is a NaN, as f32 and as f16, and an index out of range.
/// Behind a written buffer it is no NaN: arithmetic can leave a NaN unchanged bit for bit.
fn guard(binding: &Binding) -> u32 {
    match binding.access {
        Access::Read => 0x7fc0_dead,
        Access::Write => 0xdead_beef,
    }
}

/// The number of guard words behind every buffer. A kernel that reads them computes NaN; writes to them are detected.
const GUARDS: usize = 64;

impl Trial {
    /// Returns the cases of a kernel variant.
    pub(crate) fn all<K: Kernel>(variant: K::Variant) -> impl ExactSizeIterator<Item = Self> + Send {
        K::cases(variant).into_iter().map(move |case| Self {
            op: erase::<K>(variant, case.params),
            name: case.name,
            words: case.data.words(),
            expected: case.expected.list(),
        })
    }

    /// Returns the words of its buffers.
    pub(crate) fn words(&self) -> usize {
        self.words.iter().map(Vec::len).sum()
    }

    /// Returns the case's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs the case. An error of this kernel alone, such as a shader that does not compile, is a failed outcome.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], or the loss of the device.
    pub(crate) async fn outcome(self, device: &Device) -> Result<Outcome, GpuError> {
        let case = self.name.clone();
        match self.run(device).await {
            Ok(outcome) => Ok(outcome),
            Err(error) if error.is_loss() || matches!(error, GpuError::OutOfMemory { .. }) => Err(error),
            Err(error) => Ok(Outcome { case, worst: f64::INFINITY, at: error_chain(&error) }),
        }
    }

    async fn run(self, device: &Device) -> Result<Outcome, GpuError> {
        let Self { op, name, words: mut before, expected } = self;
        let bindings = op.bindings();
        let mut after = before.clone();
        for (binding, words) in bindings.iter().zip(&mut after) {
            words.resize(words.len() + GUARDS, guard(binding));
        }
        let mut reference = None;
        if device.is_cpu() {
            reference = op.reference(host_slots(&bindings, &mut before));
            op.run_cpu(host_slots(&bindings, &mut after));
        } else {
            dispatch(device, op, &bindings, &mut after).await?;
        }
        let (mut worst, mut at) = judge(&bindings, &before, &after, &expected);
        if let Some(reference) = reference {
            // Cases with weights compute their expectations independently of the reference.
            let (off, place) = agreement(&bindings, &reference, &expected);
            if off > worst {
                (worst, at) = (off, place);
            }
        }
        Ok(Outcome { case: name, worst, at })
    }
}

/// Runs `op` on buffers that hold `words`, and reads the buffers back.
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

/// Returns the largest error ratio and its place.
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
                    return (f64::INFINITY, format!("{name}[{at}], which is read only, was changed"));
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

/// Returns the largest error ratio of the kernel's reference against the case's expectations, and its place.
fn agreement(bindings: &[Binding], reference: &[Option<Expect>], expected: &[Option<Expect>]) -> (f64, String) {
    let mut worst = (0.0, String::new());
    for ((binding, reference), expected) in bindings.iter().zip(reference).zip(expected) {
        let (Some(reference), Some(expected)) = (reference, expected) else { continue };
        if let Some(found) = expected.worst(&reference.words()).filter(|found| found.error_ratio > worst.0) {
            worst = (found.error_ratio, format!("by the reference {}{found}", binding.name));
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
        assert_eq!(judged(&[1, 3], y(one), &near).1, "x[1], which is read only, was changed");
        assert_eq!(judged(&[1, 2], y(one), &[None, None]).1, "the case does not say what y must hold");
        let mut overrun = y(one);
        overrun[4] = 0;
        let (worst, at) = judged(&[1, 2], overrun, &near);
        assert!(worst.is_infinite() && at == "y was written 3 words behind its end", "{at}");
        assert!(judged(&[1, 2], y(f32::NAN.to_bits()), &near).0.is_infinite());
    }
}
