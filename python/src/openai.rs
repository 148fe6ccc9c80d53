//! Requests in OpenAI's form, without a server.

use std::{
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use ferrum_wgpu::api::{ApiError, RequestContext, Response, Service};
use pyo3::{prelude::*, types::PyDict};
use serde_json::{Value, json};

use crate::{errors::of_request, json, wait};

/// Numbers the requests of this process.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

fn context() -> RequestContext {
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let origin = since.as_nanos() as u64;
    RequestContext {
        id: u128::from(origin) << 64 | u128::from(number),
        created: since.as_secs(),
        seed: origin ^ number.rotate_left(32),
        now: Some((now, 0)),
    }
}

/// Starts the response to a request, and waits for it unless it is a stream.
pub fn chat_completion<'py>(
    py: Python<'py>,
    service: &Service,
    request: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let request = request.map_or(Ok(json!({})), |request| json::value(request))?;
    let response = py.detach(|| service.chat(request, &context())).map_err(|error| of_request(py, error))?;
    if response.is_stream() {
        return Ok(Bound::new(py, CompletionStream { response: Mutex::new(Some(response)) })?.into_any());
    }
    let whole = wait::wait(py, response.whole())?.map_err(|error| of_request(py, error))?;
    json::loads(py, &whole.to_string())
}

/// A streamed response: an iterator of chunks in OpenAI's form, also an asynchronous one.
///
/// Deleting it cancels the request.
#[pyclass(frozen, module = "ferrum_wgpu")]
#[derive(Debug)]
pub struct CompletionStream {
    response: Mutex<Option<Response>>,
}

#[pymethods]
impl CompletionStream {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let event = wait::poll(py, |context| {
            let mut response = self.response.lock().unwrap_or_else(PoisonError::into_inner);
            match response.as_mut() {
                Some(response) => futures_core::Stream::poll_next(Pin::new(response), context),
                None => std::task::Poll::Ready(None),
            }
        })?;
        let Some(event) = event.filter(|event| event.data != "[DONE]") else { return Ok(None) };
        let chunk = json::loads(py, &event.data)?;
        match serde_json::from_str::<Value>(&event.data) {
            Ok(value) if value.get("error").is_some() => {
                let message = value["error"]["message"].as_str().unwrap_or_default();
                Err(of_request(py, ApiError::new(500, message)))
            }
            _ => Ok(Some(chunk)),
        }
    }

    fn __aiter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        slf.py().import("ferrum_wgpu._aio")?.call_method1("pieces", (slf,))
    }

    /// Cancel the request if it is in progress.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| *self.response.lock().unwrap_or_else(PoisonError::into_inner) = None);
    }
}
