//! Replies: iterators of text.

use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use ferrum_wgpu::{ChatReply, FinishReason};
use pyo3::prelude::*;

use crate::{errors::exception, wait};

/// A reply in progress: an iterator of pieces of text, also an asynchronous one.
///
/// Deleting it cancels it.
#[pyclass(frozen, module = "ferrum_wgpu")]
#[derive(Debug)]
pub struct Reply {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reply: ChatReply,
    /// It has ended by itself.
    complete: bool,
}

impl Reply {
    pub fn new(reply: ChatReply) -> Self {
        Self { state: Mutex::new(State { reply, complete: false }) }
    }

    /// Locks the state. The global lock must not be held: another thread may compute meanwhile.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn piece(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let next = wait::poll(py, |context| {
            let state = &mut *self.lock();
            let next = futures_core::Stream::poll_next(Pin::new(&mut state.reply), context);
            state.complete |= matches!(next, Poll::Ready(None));
            next
        })?;
        next.transpose().map_err(exception)
    }
}

#[pymethods]
impl Reply {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.piece(py)
    }

    fn __aiter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        slf.py().import("ferrum_wgpu._aio")?.call_method1("pieces", (slf,))
    }

    /// Wait for the end of the reply and return its whole text.
    fn text(&self, py: Python<'_>) -> PyResult<String> {
        while self.piece(py)?.is_some() {}
        Ok(py.detach(|| self.lock().reply.text().to_owned()))
    }

    /// Cancel the reply if it is in progress. Its text so far stays in the conversation.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| self.lock().reply.cancel());
    }

    /// The text so far.
    #[getter]
    fn text_so_far(&self, py: Python<'_>) -> String {
        py.detach(|| self.lock().reply.text().to_owned())
    }

    /// Why the reply ended: "stop" (the model's stop token, or a stop string) or "length" (max_tokens, or a full
    /// context). None while it is in progress, and if it was cancelled or failed.
    #[getter]
    fn finish_reason(&self, py: Python<'_>) -> Option<&'static str> {
        let (reason, complete) = py.detach(|| {
            let state = self.lock();
            (state.reply.finish_reason(), state.complete)
        });
        match reason {
            Some(FinishReason::MaxTokens | FinishReason::ContextFull) => Some("length"),
            Some(_) => Some("stop"),
            None => complete.then_some("stop"),
        }
    }

    /// The number of tokens of the prompt.
    #[getter]
    fn prompt_tokens(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.lock().reply.prompt_tokens())
    }

    /// The number of tokens of the prompt that were in the KV cache; known from the first token on.
    #[getter]
    fn cached_tokens(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.lock().reply.cached())
    }

    /// The number of tokens generated so far.
    #[getter]
    fn completion_tokens(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.lock().reply.tokens())
    }
}
