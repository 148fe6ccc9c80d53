//! What goes wrong in wgpu calls, caught where they are made: nothing reaches the device's handler of uncaught errors, which
//! may be another's, and by default panics.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

#[cfg(not(target_arch = "wasm32"))]
type Answer = Pin<Box<dyn Future<Output = Option<wgpu::Error>> + Send>>;
#[cfg(target_arch = "wasm32")]
type Answer = Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>;

/// The error of some calls, if they had one: natively it is known at once, a browser tells later.
pub(crate) struct Caught {
    answers: Vec<Answer>,
}

impl fmt::Debug for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caught").finish_non_exhaustive()
    }
}

/// Makes `calls` with all their errors caught. Scopes belong to a thread, so that none may be open across an await.
pub(crate) fn caught<R>(device: &wgpu::Device, calls: impl FnOnce() -> R) -> (R, Caught) {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let result = calls();
    let validation: Answer = Box::pin(validation.pop());
    let internal: Answer = Box::pin(internal.pop());
    let memory: Answer = Box::pin(memory.pop());
    // What runs out of memory leaves something invalid behind, so that it is asked first.
    (result, Caught { answers: vec![validation, internal, memory] })
}

impl Caught {
    /// The error.
    pub(crate) async fn error(mut self) -> Option<wgpu::Error> {
        while let Some(answer) = self.answers.pop() {
            if let Some(error) = answer.await {
                return Some(error);
            }
        }
        None
    }

    /// The error where it is known already, or what has to be asked later.
    pub(crate) fn error_now(mut self) -> Result<Option<wgpu::Error>, Self> {
        let mut context = Context::from_waker(Waker::noop());
        while let Some(answer) = self.answers.last_mut() {
            match answer.as_mut().poll(&mut context) {
                Poll::Pending => return Err(self),
                Poll::Ready(Some(error)) => return Ok(Some(error)),
                Poll::Ready(None) => drop(self.answers.pop()),
            }
        }
        Ok(None)
    }
}
