//! Faults that tests inject into a device, and edits of its shaders. Without the feature `test-util` there are none.

#[cfg(not(feature = "test-util"))]
pub(super) use disabled::Hooks;
#[cfg(feature = "test-util")]
pub(super) use enabled::Hooks;

#[cfg(feature = "test-util")]
mod enabled {
    use std::sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    };

    use crate::gpu::Shader;

    /// What tests have asked of a device.
    #[derive(Debug)]
    pub(in crate::gpu) struct Hooks {
        allocations_left: AtomicU64,
        hangs: AtomicBool,
        pending_polls: AtomicU32,
        edits: Mutex<Vec<Edit>>,
    }

    /// A text replacement in the shaders of one kernel.
    #[derive(Debug)]
    struct Edit {
        kernel: String,
        from: String,
        to: String,
    }

    impl Default for Hooks {
        fn default() -> Self {
            Self {
                allocations_left: AtomicU64::new(u64::MAX),
                hangs: AtomicBool::default(),
                pending_polls: AtomicU32::default(),
                edits: Mutex::default(),
            }
        }
    }

    impl Hooks {
        pub(in crate::gpu) fn set_allocations_left(&self, allocations: u64) {
            self.allocations_left.store(allocations, Ordering::Relaxed);
        }

        /// Takes one from the allocations that are left, and returns whether there was one.
        pub(in crate::gpu) fn takes_allocation(&self) -> bool {
            let less = |left: u64| if left == u64::MAX { None } else { left.checked_sub(1) };
            self.allocations_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) != Err(0)
        }

        pub(in crate::gpu) fn set_hangs(&self) {
            self.hangs.store(true, Ordering::Relaxed);
        }

        /// Returns whether the queue gives no answer any more.
        pub(in crate::gpu) fn hangs(&self) -> bool {
            self.hangs.load(Ordering::Relaxed)
        }

        pub(in crate::gpu) fn set_pending_polls(&self, polls: u32) {
            self.pending_polls.store(polls, Ordering::Relaxed);
        }

        /// Returns how many times each future of the device is pending.
        pub(in crate::gpu) fn pending_polls(&self) -> u32 {
            self.pending_polls.load(Ordering::Relaxed)
        }

        pub(in crate::gpu) fn add_edit(&self, kernel: &str, from: &str, to: &str) {
            let [kernel, from, to] = [kernel, from, to].map(str::to_owned);
            self.edits.lock().unwrap_or_else(PoisonError::into_inner).push(Edit { kernel, from, to });
        }

        /// Makes the edits of a kernel in its shader.
        pub(in crate::gpu) fn edit(&self, kernel: &str, shader: &mut Shader) {
            let edits = self.edits.lock().unwrap_or_else(PoisonError::into_inner);
            for edit in edits.iter().filter(|edit| edit.kernel == kernel) {
                shader.replace(&edit.from, &edit.to);
            }
        }
    }
}

#[cfg(not(feature = "test-util"))]
mod disabled {
    use crate::gpu::Shader;

    /// No hooks.
    #[derive(Debug, Default)]
    pub(in crate::gpu) struct Hooks;

    #[allow(clippy::unused_self, reason = "the methods of the other `Hooks`")]
    impl Hooks {
        pub(in crate::gpu) fn takes_allocation(&self) -> bool {
            true
        }

        pub(in crate::gpu) fn hangs(&self) -> bool {
            false
        }

        pub(in crate::gpu) fn pending_polls(&self) -> u32 {
            0
        }

        pub(in crate::gpu) fn edit(&self, _: &str, _: &mut Shader) {}
    }
}
