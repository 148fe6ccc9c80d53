//! A reply in progress, which can be cancelled while it is awaited.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Poll, Waker, ready},
};

use ferrum_wgpu::api::{ApiError, Response};
use futures_core::Stream;
use serde_json::Value;
use wasm_bindgen::prelude::*;

use crate::error;

type Whole = Pin<Box<dyn Future<Output = Result<Value, ApiError>>>>;

enum State {
    Stream(Box<Response>),
    Whole(Whole),
    /// Complete or cancelled.
    Ended,
}

struct Shared {
    state: State,
    waker: Option<Waker>,
}

/// A response in progress.
#[wasm_bindgen]
pub struct Reply(Rc<RefCell<Shared>>);

impl Reply {
    pub(crate) fn new(response: Response) -> Self {
        let state = match response.is_stream() {
            true => State::Stream(Box::new(response)),
            false => State::Whole(Box::pin(response.whole())),
        };
        Self(Rc::new(RefCell::new(Shared { state, waker: None })))
    }
}

#[wasm_bindgen]
impl Reply {
    /// Waits for the next chunk of a stream, or for the whole response: the text of a JSON object. Returns nothing after
    /// the last, or when the reply was cancelled.
    ///
    /// # Errors
    /// An error of the request.
    pub fn next(&self) -> js_sys::Promise {
        let shared = Rc::clone(&self.0);
        let next = poll_fn(move |context| {
            let mut shared = shared.borrow_mut();
            shared.waker = Some(context.waker().clone());
            let (ended, result) = match &mut shared.state {
                State::Ended => (false, Ok(None)),
                State::Stream(response) => match ready!(Pin::new(&mut **response).poll_next(context)) {
                    Some(event) if event.data == "[DONE]" => (true, Ok(None)),
                    Some(event) if event.data.starts_with("{\"error\":") => (true, Err(error::of_event(&event.data))),
                    Some(event) => (false, Ok(Some(event.data))),
                    None => (true, Ok(None)),
                },
                State::Whole(whole) => {
                    let result = ready!(whole.as_mut().poll(context));
                    (true, result.map(|value| Some(value.to_string())).map_err(|error| error::of_request(&error)))
                }
            };
            if ended {
                shared.state = State::Ended;
            }
            Poll::Ready(result)
        });
        wasm_bindgen_futures::future_to_promise(async move {
            let text = next.await?;
            Ok(text.map_or(JsValue::UNDEFINED, JsValue::from))
        })
    }

    /// Ends the reply; a wait for its next chunk returns nothing.
    pub fn cancel(&self) {
        let waker = {
            let mut shared = self.0.borrow_mut();
            shared.state = State::Ended;
            shared.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
