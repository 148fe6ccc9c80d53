//! A file's metadata and typed lookups in it.

use super::GgufError;
use super::index::Index;
use super::value::{Array, Value};

/// The metadata of a file: values by key, in file order.
///
/// Typed lookups return `Ok(None)` if the key is absent and [`GgufError::WrongType`] if its value has another type.
/// Files differ in the integer widths they use, so any integer type is accepted if the value is in range.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: Index,
}

impl Metadata {
    pub(super) fn new(entries: Vec<(String, Value)>) -> Result<Self, GgufError> {
        let index = Index::new(&entries, |(key, _)| key).map_err(|key| GgufError::DuplicateKey { key })?;
        Ok(Self { entries, index })
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.find(&self.entries, |(key, _)| key, key).map(|(_, value)| value)
    }

    /// Iterates over keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns an integer from 0 to 2³² − 1, stored in any integer type.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the value has another type or is out of range.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.look_up(key, "an unsigned 32-bit integer", |value| integer(value)?.try_into().ok())
    }

    /// Returns an integer from 0 to 2⁶⁴ − 1, stored in any integer type.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the value has another type or is out of range.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.look_up(key, "an unsigned 64-bit integer", |value| integer(value)?.try_into().ok())
    }

    /// Returns a number stored in any float or integer type, rounded to f32.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the value has another type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.look_up(key, "a number", |value| match value {
            Value::F32(v) => Some(*v),
            Value::F64(v) => Some(*v as f32),
            _ => integer(value).map(|v| v as f32),
        })
    }

    /// Returns a boolean.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the value has another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.look_up(key, "a boolean", |value| match value {
            Value::Bool(v) => Some(*v),
            _ => None,
        })
    }

    /// Returns a string.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the value has another type.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.look_up(key, "a string", |value| match value {
            Value::String(v) => Some(v.as_str()),
            _ => None,
        })
    }

    /// Returns an array of strings.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the value has another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.look_up(key, "an array of strings", |value| match value {
            Value::Array(Array::String(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// Returns an array of integers from −2³¹ to 2³¹ − 1, stored in any integer type.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the value has another type or an element is out of range.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        fn all<T: Copy + TryInto<i32>>(values: &[T]) -> Option<Vec<i32>> {
            values.iter().map(|&v| v.try_into().ok()).collect()
        }
        self.look_up(key, "an array of 32-bit integers", |value| match value {
            Value::Array(Array::U8(v)) => all(v),
            Value::Array(Array::I8(v)) => all(v),
            Value::Array(Array::U16(v)) => all(v),
            Value::Array(Array::I16(v)) => all(v),
            Value::Array(Array::U32(v)) => all(v),
            Value::Array(Array::I32(v)) => all(v),
            Value::Array(Array::U64(v)) => all(v),
            Value::Array(Array::I64(v)) => all(v),
            _ => None,
        })
    }

    /// Returns an array of floats, stored in either float type, rounded to f32.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the value has another type.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.look_up(key, "an array of floats", |value| match value {
            Value::Array(Array::F32(v)) => Some(v.clone()),
            Value::Array(Array::F64(v)) => Some(v.iter().map(|&v| v as f32).collect()),
            _ => None,
        })
    }

    fn look_up<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| wrong_type(key, expected, value))
    }
}

pub(super) fn wrong_type(key: &str, expected: &'static str, value: &Value) -> GgufError {
    let found = format!("{} {value}", value.type_name());
    GgufError::WrongType { key: key.to_owned(), expected, found }
}

/// Returns the value of an integer of any type.
fn integer(value: &Value) -> Option<i128> {
    Some(match *value {
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::U64(v) => v.into(),
        Value::I64(v) => v.into(),
        Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) => return None,
    })
}
