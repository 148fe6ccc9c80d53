//! Comparison of a real forward pass with the kernels' references, dispatch by dispatch.

use std::ops::ControlFlow;

use crate::gpu::{Access, Deviation, Device, Expect, GpuError, Program, Readback, Scope, Step, host_slots};

/// The result of one dispatch.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Its index in the plan, and the number of dispatches.
    pub step: (usize, usize),
    /// The kernel's name.
    pub kernel: &'static str,
    /// The variant in `Debug` form.
    pub variant: String,
    /// The part of the model.
    pub scope: Scope,
    /// The parameters in `Debug` form.
    pub shape: String,
    /// Whether the kernel has a reference with a bound. Otherwise it was compared with its CPU kernel
    /// ([`Expect::near_cpu_kernel`]).
    pub own_bound: bool,
    /// The binding and element with the largest error ratio.
    pub worst: Option<(&'static str, Deviation)>,
}

impl Replayed {
    /// Returns the largest error ratio.
    pub fn error_ratio(&self) -> f64 {
        self.worst.map_or(0.0, |(_, deviation)| deviation.error_ratio)
    }

    /// Returns whether it is within the bound.
    pub fn passed(&self) -> bool {
        self.error_ratio() <= 1.0
    }
}

/// Runs the plan of `program` step by step: reads the inputs of each dispatch, runs it, reads its outputs, and compares them
/// with the kernel's reference on these inputs. Errors do not accumulate, so that the first step out of its bound is the
/// faulty one. Calls `seen` with each result until it breaks.
///
/// # Errors
/// Errors of running and reading. Wrong results are no errors.
pub async fn replay(
    device: &Device,
    program: &Program,
    mut seen: impl FnMut(Replayed) -> ControlFlow<()>,
) -> Result<(), GpuError> {
    let steps = program.plan().steps();
    let most = steps.iter().flat_map(Step::buffers).flatten().map(|buffer| buffer.len()).max().unwrap_or(0);
    let readback = Readback::new::<u32>(device, most, 1).await?;
    for (i, step) in steps.iter().enumerate() {
        let (op, bindings) = (step.op(), step.op().bindings());
        let mut before = Vec::with_capacity(bindings.len());
        for buffer in step.buffers() {
            before.push(match buffer {
                Some(buffer) => readback.read(device, &buffer, buffer.len()).await?,
                None => Vec::new(),
            });
        }
        program.run_steps(device, i..i + 1).await?;
        let reference = op.reference(host_slots(&bindings, &mut before));
        let own_bound = reference.is_some();
        let expected = reference.unwrap_or_else(|| by_cpu_kernel(step, &mut before));
        let mut worst: Option<(&'static str, Deviation)> = None;
        for ((binding, buffer), expected) in bindings.iter().zip(step.buffers()).zip(expected) {
            let (Access::Write, Some(buffer), Some(expected)) = (binding.access, buffer, expected) else { continue };
            let after = readback.read(device, &buffer, buffer.len()).await?;
            if let Some(found) = expected.worst(&after)
                && worst.is_none_or(|(_, worst)| found.error_ratio > worst.error_ratio)
            {
                worst = Some((binding.name, found));
            }
        }
        let replayed = Replayed {
            step: (i, steps.len()),
            kernel: op.kernel(),
            variant: op.variant(),
            scope: step.scope(),
            shape: op.shape(),
            own_bound,
            worst,
        };
        if seen(replayed).is_break() {
            break;
        }
    }
    Ok(())
}

/// Returns the CPU kernel's results on `before`, with the bounds for kernels without a reference.
fn by_cpu_kernel(step: &Step, before: &mut [Vec<u32>]) -> Vec<Option<Expect>> {
    let (op, bindings) = (step.op(), step.op().bindings());
    let written = |i: usize| bindings.get(i).is_some_and(|b| b.present && b.access == Access::Write);
    let saved: Vec<Option<Vec<u32>>> =
        before.iter().enumerate().map(|(i, words)| written(i).then(|| words.clone())).collect();
    op.run_cpu(host_slots(&bindings, before));
    let near = |((binding, saved), after): ((&crate::gpu::Binding, Option<Vec<u32>>), &mut Vec<u32>)| {
        saved.map(|saved| Expect::near_cpu_kernel(binding.element, &saved, after))
    };
    bindings.iter().zip(saved).zip(before).map(near).collect()
}
