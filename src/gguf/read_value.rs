//! Parsing of metadata values.

use super::GgufError;
use super::reader::Reader;
use super::value::{Array, Value, id};

/// The greatest nesting depth of arrays: `[[[[1]]]]`.
pub(super) const MAX_NESTING: u32 = 4;
/// Size in bytes of the empty string.
const MIN_STRING: u64 = 8;
/// Size in bytes of the empty array.
const MIN_ARRAY: u64 = 12;
/// The format's limit on key length in bytes.
const KEY_MAX: u64 = 65_535;
const VALUE: &str = "a metadata value";

/// Reads one metadata entry.
pub(super) fn entry(reader: &mut Reader<'_>) -> Result<(String, Value), GgufError> {
    let offset = reader.offset();
    let len = reader.u64("the length of a metadata key")?;
    if !(1..=KEY_MAX).contains(&len) {
        return Err(GgufError::KeyLength { offset, len, max: KEY_MAX });
    }
    let key = text(reader, "metadata key", None, len)?;
    reader.charge(1, size_of::<(String, Value)>())?;
    let type_offset = reader.offset();
    let type_id = reader.u32("the type of a metadata value")?;
    let value = match type_id {
        id::U8 => Value::U8(u8::from_le_bytes(reader.array(VALUE)?)),
        id::I8 => Value::I8(i8::from_le_bytes(reader.array(VALUE)?)),
        id::U16 => Value::U16(u16::from_le_bytes(reader.array(VALUE)?)),
        id::I16 => Value::I16(i16::from_le_bytes(reader.array(VALUE)?)),
        id::U32 => Value::U32(u32::from_le_bytes(reader.array(VALUE)?)),
        id::I32 => Value::I32(i32::from_le_bytes(reader.array(VALUE)?)),
        id::F32 => Value::F32(f32::from_le_bytes(reader.array(VALUE)?)),
        id::U64 => Value::U64(u64::from_le_bytes(reader.array(VALUE)?)),
        id::I64 => Value::I64(i64::from_le_bytes(reader.array(VALUE)?)),
        id::F64 => Value::F64(f64::from_le_bytes(reader.array(VALUE)?)),
        id::BOOL => {
            let offset = reader.offset();
            let [byte] = reader.array(VALUE)?;
            Value::Bool(boolean(byte, &key, offset)?)
        }
        id::STRING => Value::String(string(reader, &key)?),
        id::ARRAY => Value::Array(array(reader, &key, 1)?),
        id => return Err(GgufError::ValueType { key, id, offset: type_offset }),
    };
    Ok((key, value))
}

/// Reads `len` bytes of UTF-8. Errors quote `name`, or the text itself if it is a name.
pub(super) fn text(
    reader: &mut Reader<'_>,
    what: &'static str,
    name: Option<&str>,
    len: u64,
) -> Result<String, GgufError> {
    let offset = reader.offset();
    reader.check(what, len, 1)?;
    reader.charge(len, 1)?;
    let bytes = reader.take(what, len)?;
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => {
            let name = name.map_or_else(|| String::from_utf8_lossy(bytes).into_owned(), str::to_owned);
            Err(GgufError::Utf8 { what, name, offset })
        }
    }
}

fn string(reader: &mut Reader<'_>, key: &str) -> Result<String, GgufError> {
    let len = reader.u64("the length of a string")?;
    text(reader, "the value of metadata key", Some(key), len)
}

fn array(reader: &mut Reader<'_>, key: &str, depth: u32) -> Result<Array, GgufError> {
    let offset = reader.offset();
    if depth > MAX_NESTING {
        return Err(GgufError::Nesting { key: key.to_owned(), limit: MAX_NESTING, offset });
    }
    let type_id = reader.u32("the type of an array")?;
    let count = reader.u64("the length of an array")?;
    Ok(match type_id {
        id::U8 => Array::U8(numbers(reader, count, u8::from_le_bytes)?),
        id::I8 => Array::I8(numbers(reader, count, i8::from_le_bytes)?),
        id::U16 => Array::U16(numbers(reader, count, u16::from_le_bytes)?),
        id::I16 => Array::I16(numbers(reader, count, i16::from_le_bytes)?),
        id::U32 => Array::U32(numbers(reader, count, u32::from_le_bytes)?),
        id::I32 => Array::I32(numbers(reader, count, i32::from_le_bytes)?),
        id::F32 => Array::F32(numbers(reader, count, f32::from_le_bytes)?),
        id::U64 => Array::U64(numbers(reader, count, u64::from_le_bytes)?),
        id::I64 => Array::I64(numbers(reader, count, i64::from_le_bytes)?),
        id::F64 => Array::F64(numbers(reader, count, f64::from_le_bytes)?),
        id::BOOL => {
            let offset = reader.offset();
            reader.check("an array", count, 1)?;
            reader.charge(count, 1)?;
            let bytes = reader.take("an array", count)?;
            let booleans = bytes.iter().zip(offset..).map(|(&byte, offset)| boolean(byte, key, offset));
            Array::Bool(booleans.collect::<Result<_, _>>()?)
        }
        id::STRING => Array::String(items(reader, count, MIN_STRING, |reader| string(reader, key))?),
        id::ARRAY => Array::Array(items(reader, count, MIN_ARRAY, |reader| array(reader, key, depth + 1))?),
        id => return Err(GgufError::ValueType { key: key.to_owned(), id, offset }),
    })
}

fn numbers<const N: usize, T>(
    reader: &mut Reader<'_>,
    count: u64,
    number: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, GgufError> {
    reader.check("an array", count, N as u64)?;
    reader.charge(count, size_of::<T>())?;
    let bytes = reader.take("an array", count.saturating_mul(N as u64))?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| number(*bytes)).collect())
}

/// Reads `count` items of varying length, each at least `min_size` bytes.
fn items<'a, T>(
    reader: &mut Reader<'a>,
    count: u64,
    min_size: u64,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, GgufError>,
) -> Result<Vec<T>, GgufError> {
    reader.check("an array", count, min_size)?;
    reader.charge(count, size_of::<T>())?;
    // Grows with the items actually read: `count` is not trusted.
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(reader)?);
    }
    Ok(items)
}

fn boolean(byte: u8, key: &str, offset: u64) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(GgufError::Bool { key: key.to_owned(), byte, offset }),
    }
}
