//! Handling of Ctrl-C.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::exit::{Code, Failure};

const IDLE: u8 = 0;
const REPLYING: u8 = 1;
const STOPPING: u8 = 2;

/// The Ctrl-C handler. During a reply, Ctrl-C stops the reply, and a second one ends the process. Otherwise it ends the
/// process.
///
/// Until it is installed, the system's default applies.
#[derive(Debug)]
pub struct Interrupt {
    state: Arc<AtomicU8>,
}

impl Interrupt {
    /// Installs the handler. `idle` is the exit code of Ctrl-C outside a reply.
    pub fn install(idle: Code) -> Result<Self, Failure> {
        let state = Arc::new(AtomicU8::new(IDLE));
        let seen = Arc::clone(&state);
        let handler = move || match seen.compare_exchange(REPLYING, STOPPING, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {}
            Err(IDLE) => {
                super::output::note(format_args!(""));
                exit(i32::from(idle as u8));
            }
            Err(_) => exit(i32::from(Code::Interrupted as u8)),
        };
        ctrlc::set_handler(handler)
            .map_err(|error| Failure::Error(Code::Runtime, format!("cannot handle Ctrl-C: {error}")))?;
        Ok(Self { state })
    }

    /// Marks the start of a reply.
    pub fn begin(&self) {
        self.state.store(REPLYING, Ordering::SeqCst);
    }

    /// Marks the end of a reply.
    pub fn end(&self) {
        self.state.store(IDLE, Ordering::SeqCst);
    }

    /// Returns whether Ctrl-C asked to stop the reply.
    pub fn requested(&self) -> bool {
        self.state.load(Ordering::SeqCst) == STOPPING
    }
}
