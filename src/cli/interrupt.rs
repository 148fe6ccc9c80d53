//! Ctrl-C.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::exit::{Code, Failure};

const IDLE: u8 = 0;
const REPLYING: u8 = 1;
const STOPPING: u8 = 2;

/// What Ctrl-C does: while a reply is made it asks for its end, and the second time ends the process; otherwise it ends
/// the process, which has then nothing under way.
///
/// Until one is installed, Ctrl-C does what the system has it do.
#[derive(Debug)]
pub struct Interrupt {
    state: Arc<AtomicU8>,
}

impl Interrupt {
    /// Takes Ctrl-C over, for good. `idle` is how the process ends while no reply is made.
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

    /// A reply begins.
    pub fn begin(&self) {
        self.state.store(REPLYING, Ordering::SeqCst);
    }

    /// The reply has ended.
    pub fn end(&self) {
        self.state.store(IDLE, Ordering::SeqCst);
    }

    /// Whether the reply is to end.
    pub fn requested(&self) -> bool {
        self.state.load(Ordering::SeqCst) == STOPPING
    }
}
