//! Errors of wgpu calls, caught by error scopes: none reaches the device's handler for uncaught errors, which may be the
//! application's, and panics by default.

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

/// The errors of some calls: natively known at once, in a browser reported later.
pub(crate) struct Caught {
    answers: Vec<Answer>,
}

impl fmt::Debug for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caught").finish_non_exhaustive()
    }
}

/// Makes `calls` and catches their errors. Scopes belong to a thread: none may be open across an await.
pub(crate) fn caught<R>(device: &wgpu::Device, calls: impl FnOnce() -> R) -> (R, Caught) {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let result = calls();
    let validation: Answer = Box::pin(validation.pop());
    let internal: Answer = Box::pin(internal.pop());
    let memory: Answer = Box::pin(memory.pop());
    // Popped from the end: running out of memory causes validation errors.
    (result, Caught { answers: vec![validation, internal, memory] })
}

impl Caught {
    /// Waits for the first error.
    pub(crate) async fn error(mut self) -> Option<wgpu::Error> {
        while let Some(answer) = self.answers.pop() {
            if let Some(error) = answer.await {
                return Some(error);
            }
        }
        None
    }

    /// Returns the first error, or itself if a browser has not reported it yet.
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
