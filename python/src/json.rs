//! JSON values to and from Python, by its own module `json`.

use ferrum_wgpu::{Json, Message, Role};
use pyo3::{exceptions::PyValueError, prelude::*, types::PyString};
use serde_json::{Map, Value};

use crate::errors::exception;

/// Returns the JSON text of an object.
pub fn dumps(value: &Bound<'_, PyAny>) -> PyResult<String> {
    value.py().import("json")?.call_method1("dumps", (value,))?.extract()
}

/// Returns the JSON value of an object.
pub fn value(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    serde_json::from_str(&dumps(value)?).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Returns the object of a JSON text.
pub fn loads<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (text,))
}

/// Returns a JSON text: of an object, or the text that it is.
pub fn text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    match value.cast::<PyString>() {
        Ok(text) => text.extract(),
        Err(_) => dumps(value),
    }
}

/// Returns a JSON value for templates.
pub fn checked(value: &Bound<'_, PyAny>) -> PyResult<Json> {
    Json::parse(dumps(value)?).map_err(exception)
}

/// Returns the messages of a list of dictionaries in OpenAI's form.
pub fn messages(list: &Bound<'_, PyAny>) -> PyResult<Vec<Message>> {
    let invalid = |problem: &str| PyValueError::new_err(format!("messages: {problem}"));
    let Value::Array(list) = value(list)? else { return Err(invalid("must be a list")) };
    let message = |message: Value| {
        let Value::Object(mut fields) = message else { return Err(invalid("each must be a dictionary")) };
        let Some(Value::String(role)) = fields.shift_remove("role") else {
            return Err(invalid("each must have a role"));
        };
        let role: Role = role.parse().map_err(|error| invalid(&format!("{error}")))?;
        let mut message = Message::new(role, "");
        match fields.shift_remove("content") {
            Some(Value::String(text)) => message.content = text,
            None | Some(Value::Null) => {}
            Some(other) => message = message.with("content", json(&other)?),
        }
        for (name, value) in fields {
            message = message.with(name, json(&value)?);
        }
        Ok(message)
    };
    list.into_iter().map(message).collect()
}

fn json(value: &Value) -> PyResult<Json> {
    Json::parse(value.to_string()).map_err(exception)
}

/// Returns messages as a list of dictionaries.
pub fn to_list<'py>(py: Python<'py>, messages: &[Message]) -> PyResult<Bound<'py, PyAny>> {
    let one = |message: &Message| {
        let mut object = Map::new();
        object.insert("role".to_owned(), Value::from(message.role.name()));
        object.insert("content".to_owned(), Value::from(message.content.as_str()));
        for (name, value) in &message.fields {
            object.insert(name.clone(), serde_json::from_str(value.as_str()).unwrap_or_default());
        }
        Value::Object(object)
    };
    loads(py, &Value::Array(messages.iter().map(one).collect()).to_string())
}
