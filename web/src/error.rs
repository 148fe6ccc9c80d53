//! Errors for JavaScript: an `Error` with a stable `code`, and `param` and `status` of a request's error.

use ferrum_wgpu::{EngineError, Error, GgufError, GpuError, ModelError, TextError, api::ApiError};
use js_sys::Reflect;
use serde_json::Value;
use wasm_bindgen::JsValue;

/// Returns a JavaScript error with a code.
pub fn coded(code: &str, message: &str) -> JsValue {
    let error = JsValue::from(js_sys::Error::new(message));
    set(&error, "code", &code.into());
    error
}

fn set(object: &JsValue, name: &str, value: &JsValue) {
    // An object that was just made takes any property.
    let _ = Reflect::set(object, &name.into(), value);
}

/// Returns the JavaScript error of a request.
pub fn of_request(error: &ApiError) -> JsValue {
    let code = match error.code {
        Some("device_lost") => "device_lost",
        _ => "request",
    };
    let made = coded(code, &error.message);
    set(&made, "status", &error.status.into());
    set(&made, "type", &error.openai_type().into());
    set(&made, "param", &error.param.clone().into());
    set(&made, "reason", &error.code.into());
    made
}

/// Returns the JavaScript error of the event that ends a stream.
pub fn of_event(data: &str) -> JsValue {
    let value: Value = serde_json::from_str(data).unwrap_or_default();
    let error = &value["error"];
    let code = if error["code"] == "device_lost" { "device_lost" } else { "request" };
    let made = coded(code, error["message"].as_str().unwrap_or(data));
    set(&made, "status", &(if error["type"] == "invalid_request_error" { 400 } else { 500 }).into());
    for (name, of) in [("type", "type"), ("param", "param"), ("reason", "code")] {
        set(&made, name, &error[of].as_str().map(str::to_owned).into());
    }
    made
}

/// Returns the JavaScript error of anything else.
pub fn of(error: impl Into<Error>) -> JsValue {
    let error = error.into();
    coded(code(&error), &chain(&error))
}

fn code(error: &Error) -> &'static str {
    match error {
        Error::Gguf(GgufError::Io { .. }) => "storage",
        Error::Gguf(_) | Error::Text(TextError::NoTemplate) => "model",
        Error::Gpu(error) | Error::Model(ModelError::Gpu(error)) => gpu_code(error),
        Error::Engine(EngineError::Gpu(error)) => gpu_code(error),
        Error::Engine(EngineError::DeviceLost) => "device_lost",
        Error::Engine(EngineError::DoesNotFit { .. }) => "memory",
        Error::Engine(EngineError::Context { .. } | EngineError::Option { .. }) => "option",
        _ => "model",
    }
}

fn gpu_code(error: &GpuError) -> &'static str {
    match error {
        GpuError::NoAdapter | GpuError::RequestDevice { .. } => "gpu",
        GpuError::OutOfMemory { .. } | GpuError::TooLarge { .. } => "memory",
        error if error.is_loss() => "device_lost",
        _ => "gpu",
    }
}

/// Joins the messages of an error and its sources.
fn chain(error: &Error) -> String {
    ferrum_wgpu::low_level::gpu::error_chain(error)
}
