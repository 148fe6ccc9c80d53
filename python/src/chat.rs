//! Conversations.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrum_wgpu::Message;
use pyo3::prelude::*;

use crate::{json, reply::Reply};

/// A conversation with a model, made by Engine.chat. It keeps the KV cache of its messages.
#[pyclass(frozen, module = "ferrum_wgpu")]
#[derive(Debug)]
pub struct Chat {
    chat: Mutex<ferrum_wgpu::Chat>,
}

impl Chat {
    pub fn new(chat: ferrum_wgpu::Chat) -> Self {
        Self { chat: Mutex::new(chat) }
    }

    fn lock(&self) -> MutexGuard<'_, ferrum_wgpu::Chat> {
        self.chat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Chat {
    /// Add a user's message and start the reply to it.
    ///
    /// The reply is added to the conversation when it ends. Errors are raised when it is read, among them BusyError
    /// while another reply is in progress.
    fn say(&self, py: Python<'_>, text: String) -> Reply {
        py.detach(|| Reply::new(self.lock().say(text)))
    }

    /// Remove all messages but the system's.
    fn clear(&self, py: Python<'_>) {
        py.detach(|| self.lock().clear());
    }

    /// The messages so far, in OpenAI's form. They can be set, for example to those of a saved conversation.
    #[getter]
    fn messages<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let messages = py.detach(|| self.lock().messages());
        json::to_list(py, &messages)
    }

    #[setter]
    fn set_messages(&self, py: Python<'_>, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        let messages: Vec<Message> = json::messages(messages)?;
        py.detach(|| self.lock().set_messages(messages));
        Ok(())
    }
}
