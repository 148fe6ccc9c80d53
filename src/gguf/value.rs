//! Metadata values: the 13 types of the format, and their display.

use super::shown::Quoted;
use std::fmt;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Unsigned, 8 bits.
    U8(u8),
    /// Signed, 8 bits.
    I8(i8),
    /// Unsigned, 16 bits.
    U16(u16),
    /// Signed, 16 bits.
    I16(i16),
    /// Unsigned, 32 bits.
    U32(u32),
    /// Signed, 32 bits.
    I32(i32),
    /// Float, 32 bits.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// A string.
    String(String),
    /// An array of values of one type.
    Array(Array),
    /// Unsigned, 64 bits.
    U64(u64),
    /// Signed, 64 bits.
    I64(i64),
    /// Float, 64 bits.
    F64(f64),
}

/// An array of metadata values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Unsigned, 8 bits.
    U8(Vec<u8>),
    /// Signed, 8 bits.
    I8(Vec<i8>),
    /// Unsigned, 16 bits.
    U16(Vec<u16>),
    /// Signed, 16 bits.
    I16(Vec<i16>),
    /// Unsigned, 32 bits.
    U32(Vec<u32>),
    /// Signed, 32 bits.
    I32(Vec<i32>),
    /// Floats, 32 bits.
    F32(Vec<f32>),
    /// True or false.
    Bool(Vec<bool>),
    /// Strings.
    String(Vec<String>),
    /// Arrays, which may have different types.
    Array(Vec<Array>),
    /// Unsigned, 64 bits.
    U64(Vec<u64>),
    /// Signed, 64 bits.
    I64(Vec<i64>),
    /// Floats, 64 bits.
    F64(Vec<f64>),
}

/// The type numbers of the format (`enum gguf_type`).
pub(super) mod id {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

/// Evaluates `$body` with `$items` bound to the elements of `$array`, and `$name` to the plural of their type's name.
macro_rules! with_items {
    ($array:expr, $items:ident, $name:ident => $body:expr) => {
        with_items!(@arms $array, $items, $name, $body,
            U8 "u8s", I8 "i8s", U16 "u16s", I16 "i16s", U32 "u32s", I32 "i32s", F32 "f32s", Bool "bools",
            String "strings", Array "arrays", U64 "u64s", I64 "i64s", F64 "f64s")
    };
    (@arms $array:expr, $items:ident, $name:ident, $body:expr, $($variant:ident $plural:literal),*) => {
        match $array {
            $(Array::$variant($items) => { let $name = $plural; $body })*
        }
    };
}

impl Array {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        with_items!(self, items, _name => items.len())
    }

    /// Returns whether the array is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The number of elements of an array to show.
const SHOWN_ELEMENTS: usize = 4;

impl fmt::Display for Array {
    /// Writes the number of elements, their type and the first few: `[151936 strings: "!", "\"", "#", "$", …]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_items!(self, items, name => {
            write!(f, "[{} {name}", items.len())?;
            for (i, item) in items.iter().take(SHOWN_ELEMENTS).enumerate() {
                f.write_str(if i == 0 { ": " } else { ", " })?;
                item.show(f)?;
            }
            f.write_str(if items.len() > SHOWN_ELEMENTS { ", …]" } else { "]" })
        })
    }
}

impl fmt::Display for Value {
    /// Writes numbers and booleans as Rust does, strings quoted and truncated, arrays as [`Array`] does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(v) => v.show(f),
            Self::I8(v) => v.show(f),
            Self::U16(v) => v.show(f),
            Self::I16(v) => v.show(f),
            Self::U32(v) => v.show(f),
            Self::I32(v) => v.show(f),
            Self::F32(v) => v.show(f),
            Self::Bool(v) => v.show(f),
            Self::String(v) => v.show(f),
            Self::Array(v) => v.show(f),
            Self::U64(v) => v.show(f),
            Self::I64(v) => v.show(f),
            Self::F64(v) => v.show(f),
        }
    }
}

impl Value {
    /// Returns the name of the type, such as `u32` or `array`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }
}

/// Display of one element on one line.
trait Show {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

macro_rules! show_as_is {
    ($($ty:ty)*) => {
        $(impl Show for $ty {
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        })*
    };
}

show_as_is!(u8 i8 u16 i16 u32 i32 f32 bool u64 i64 f64 Array);

impl Show for String {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Quoted(self))
    }
}

macro_rules! value_from {
    ($($variant:ident $ty:ty),*) => {
        $(impl From<$ty> for Value {
            fn from(value: $ty) -> Self {
                Self::$variant(value)
            }
        }
        impl From<Vec<$ty>> for Value {
            fn from(values: Vec<$ty>) -> Self {
                Self::Array(Array::$variant(values))
            }
        })*
    };
}

value_from!(U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, F32 f32, Bool bool, String String, Array Array,
    U64 u64, I64 i64, F64 f64);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<Vec<&str>> for Value {
    fn from(values: Vec<&str>) -> Self {
        Self::Array(Array::String(values.into_iter().map(str::to_owned).collect()))
    }
}
