//! Execution of steps by their CPU kernels.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Access, GpuError, HostSlot, RawBuffer, Step, buffer::Storage};

/// Runs a step on buffers of [`Device::cpu`](super::Device::cpu).
pub(super) fn run(step: &Step) -> Result<(), GpuError> {
    run_on(step, |buffer| match &buffer.storage {
        Storage::Host(memory) => Some(memory),
        Storage::Gpu(_) | Storage::DryRun => None,
    })
}

enum Guard<'a> {
    Absent,
    Read(RwLockReadGuard<'a, Vec<u32>>),
    Write(RwLockWriteGuard<'a, Vec<u32>>),
}

/// Runs a step on the words that `memory` returns for its buffers. The recorder has checked that no written buffer is bound
/// twice. An indirect dispatch runs the kernel's own grid, which contains the indirect one.
pub(super) fn run_on<'a>(
    step: &'a Step,
    memory: impl Fn(&'a RawBuffer) -> Option<&'a RwLock<Vec<u32>>>,
) -> Result<(), GpuError> {
    let mut guards = Vec::with_capacity(step.buffers.len());
    for (buffer, binding) in step.buffers.iter().zip(step.op.bindings()) {
        guards.push(match buffer {
            None => Guard::Absent,
            Some(buffer) => {
                let words = memory(buffer).ok_or_else(|| buffer.foreign())?;
                match binding.access {
                    Access::Read => Guard::Read(words.read().unwrap_or_else(PoisonError::into_inner)),
                    Access::Write => Guard::Write(words.write().unwrap_or_else(PoisonError::into_inner)),
                }
            }
        });
    }
    let slots = guards
        .iter_mut()
        .map(|guard| match guard {
            Guard::Absent => HostSlot::Absent,
            Guard::Read(words) => HostSlot::Read(words),
            Guard::Write(words) => HostSlot::Write(words),
        })
        .collect();
    step.op.run_cpu(slots);
    Ok(())
}
