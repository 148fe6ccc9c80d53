//! Fields of a JSON object that is a request: each is read once, and what is not read is refused by name.

use serde_json::{Map, Value};

use super::ApiError;

/// The fields of an object, and its place in the request.
#[derive(Debug)]
pub(super) struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// Returns the fields of a request.
    pub(super) fn of_request(value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, path: String::new() }),
            _ => Err(ApiError::new(400, "the request is not a JSON object")),
        }
    }

    /// Returns the fields of an object at `path`.
    pub(super) fn new(value: Value, path: impl Into<String>) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            _ => Err(ApiError::field(path, "must be an object")),
        }
    }

    /// Returns the path of a field.
    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Returns the error of a field.
    pub(super) fn error(&self, name: &str, problem: impl std::fmt::Display) -> ApiError {
        ApiError::field(self.path(name), problem)
    }

    /// Removes and returns a field, unless it is missing or null.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Removes and returns a field, or fails if it is missing or null.
    pub(super) fn required(&mut self, name: &str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| self.error(name, "is missing").code("missing_required_parameter"))
    }

    /// Adds a field.
    pub(super) fn put(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// Fails if a field is missing or null.
    pub(super) fn required_present(&mut self, name: &str) -> Result<(), ApiError> {
        let value = self.required(name)?;
        self.put(name, value);
        Ok(())
    }

    /// Removes a string.
    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(name, "must be a string")),
        }
    }

    /// Removes a boolean.
    pub(super) fn bool(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(self.error(name, "must be true or false")),
        }
    }

    /// Removes a whole number in a range.
    pub(super) fn integer(&mut self, name: &str, least: i64, most: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        // Some clients write 1.0. 2⁶³ and above are no i64.
        let is_whole = |n: &f64| n.fract() == 0.0 && n.abs() < i64::MAX as f64;
        let whole = value.as_i64().or_else(|| value.as_f64().filter(is_whole).map(|n| n as i64));
        let range = || format!("must be a whole number from {least} to {most}");
        whole.filter(|n| (least..=most).contains(n)).map(Some).ok_or_else(|| self.error(name, range()))
    }

    /// Removes a number in a range.
    pub(super) fn number(&mut self, name: &str, least: f64, most: f64) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().filter(|n| (least..=most).contains(n));
        number
            .map(|n| Some(n as f32))
            .ok_or_else(|| self.error(name, format_args!("must be a number from {least} to {most}")))
    }

    /// Removes a list.
    pub(super) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.error(name, "must be a list")),
        }
    }

    /// Removes fields that change nothing here, whatever their values.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.map.remove(*name);
        }
    }

    /// Removes a field that is supported with some values only.
    pub(super) fn only(&mut self, name: &str, values: &[Value]) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !values.contains(&value) => {
                let known = values.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
                let problem = if known.is_empty() {
                    "is not supported".to_owned()
                } else {
                    format!("is not supported with this value, only with {known}")
                };
                Err(ApiError::unsupported(self.path(name), problem))
            }
            _ => Ok(()),
        }
    }

    /// Fails if fields are left that were not read.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::unsupported(self.path(name), "is not a supported field")),
        }
    }
}

/// Returns a list of strings from one string or a list.
pub(super) fn strings(value: Value, path: &str, most: usize) -> Result<Vec<String>, ApiError> {
    let problem = || ApiError::field(path, format_args!("must be a string or a list of at most {most} strings"));
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) if list.len() <= most => {
            list.into_iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(problem)).collect()
        }
        _ => Err(problem()),
    }
}
