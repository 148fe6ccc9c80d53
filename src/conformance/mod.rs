//! The kernels' own test cases, run on a device: does this GPU with this driver compute right?
//!
//! A case's inputs go through one dispatch, and every written buffer is compared with the definition in f64 within the
//! bound that the kernel documents.

use crate::{
    gpu::{Access, Binding, Buffer, Case, Data, Device, Expected, GpuError, HostSlot, Kernel, Op, Program, Readback},
    kernels::{self, Visitor},
};

/// How one case of one kernel variant came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The kernel's name.
    pub kernel: &'static str,
    /// The variant's `Debug` form.
    pub variant: String,
    /// The case's name.
    pub case: String,
    /// The worst error as a share of its bound: over 1 is a failure.
    pub worst: f64,
    /// Where it is: binding and element.
    pub at: String,
}

impl Outcome {
    /// Within the bound.
    pub fn passed(&self) -> bool {
        self.worst <= 1.0
    }
}

/// Runs every case of every kernel that the device can run, kernels whose name contains `pattern` only.
///
/// # Errors
/// A kernel that does not compile, memory that runs out, a device that is lost: wrong results are outcomes.
pub async fn run(device: &Device, pattern: &str) -> Result<Vec<Outcome>, GpuError> {
    struct Collect<'a>(&'a Device, &'a str, Vec<Box<dyn Trial>>);
    impl Visitor for Collect<'_> {
        fn visit<K: Kernel>(&mut self, _: K) {
            if K::NAME.contains(self.1) {
                for variant in K::variants(self.0.caps()) {
                    let cases = K::cases(variant).into_iter();
                    self.2.extend(cases.map(|case| Box::new(Pending::<K> { variant, case }) as Box<dyn Trial>));
                }
            }
        }
    }
    let mut collect = Collect(device, pattern, Vec::new());
    kernels::visit(&mut collect);
    let mut outcomes = Vec::new();
    for trial in collect.2 {
        outcomes.push(run_trial(device, trial).await?);
    }
    Ok(outcomes)
}

/// A case with its types erased, as far as running it needs them.
trait Trial {
    fn into_parts(self: Box<Self>) -> Parts;
}

struct Pending<K: Kernel> {
    variant: K::Variant,
    case: Case<K>,
}

struct Parts {
    op: Box<dyn Op>,
    name: String,
    words: Vec<Vec<u32>>,
    expected: Vec<Option<crate::gpu::Expect>>,
}

impl<K: Kernel> Trial for Pending<K> {
    fn into_parts(self: Box<Self>) -> Parts {
        Parts {
            op: crate::gpu::erase::<K>(self.variant, self.case.params),
            name: self.case.name,
            words: self.case.data.words(),
            expected: self.case.expected.list(),
        }
    }
}

async fn run_trial(device: &Device, trial: Box<dyn Trial>) -> Result<Outcome, GpuError> {
    let Parts { op, name, mut words, expected } = trial.into_parts();
    let (kernel, variant, bindings) = (op.kernel(), op.variant(), op.bindings());
    if device.is_cpu() {
        run_twin(&*op, &bindings, &mut words);
    } else {
        run_gpu(device, op, &bindings, &mut words).await?;
    }
    let mut outcome = Outcome { kernel, variant, case: name, worst: 0.0, at: String::new() };
    for ((binding, words), expected) in bindings.iter().zip(&words).zip(expected) {
        let Some(expected) = expected else { continue };
        let (share, at) = expected.worst(words);
        if share > outcome.worst {
            (outcome.worst, outcome.at) = (share, format!("{}[{at}]", binding.name));
        }
    }
    Ok(outcome)
}

fn run_twin(op: &dyn Op, bindings: &[Binding], words: &mut [Vec<u32>]) {
    let slots = words
        .iter_mut()
        .zip(bindings)
        .map(|(words, binding)| match (binding.present, binding.access) {
            (false, _) => HostSlot::Absent,
            (true, Access::Read) => HostSlot::Read(words),
            (true, Access::Write) => HostSlot::Write(words),
        })
        .collect();
    op.run_cpu(slots);
}

async fn run_gpu(
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
    program.prepare(device, crate::gpu::Plan::single(op, &buffers)).await?;
    program.run(device)?;
    for ((binding, words), buffer) in bindings.iter().zip(words).zip(&buffers) {
        if let (Access::Write, Some(buffer)) = (binding.access, buffer) {
            let len = words.len() as u64;
            *words = Readback::new::<u32>(device, len).await?.read(device, buffer, len).await?;
        }
    }
    Ok(())
}
