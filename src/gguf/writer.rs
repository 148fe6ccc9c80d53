//! A writer of small GGUF files, for tests and tools.

use super::GgufError;
use super::directory::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Directory, MAGIC, VERSIONS, alignment_is_valid};
use super::tensor::{SizeError, data_bytes};
use super::value::{Array, Value, id};
use crate::quant::WeightType;

/// A builder of a GGUF file of version 3 in memory.
///
/// ```
/// # use ferrum_wgpu::{Gguf, gguf::GgufWriter, low_level::quant::WeightType};
/// # fn main() -> Result<(), ferrum_wgpu::GgufError> {
/// let mut writer = GgufWriter::new();
/// writer.metadata("general.name", "tiny").tensor("t", WeightType::F16, &[3], vec![0; 6]);
/// let file = Gguf::from_bytes(writer.to_bytes()?)?;
/// assert_eq!(file.metadata().str("general.name")?, Some("tiny"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    ty: WeightType,
    shape: Vec<u64>,
    data: Vec<u8>,
}

impl GgufWriter {
    /// Creates an empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata entry. `general.alignment`, a u32, also sets the alignment of tensor data (32 by default).
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Adds a tensor. `shape` is in ggml's order, row length first; `data` are the blocks.
    pub fn tensor(&mut self, name: impl Into<String>, ty: WeightType, shape: &[u64], data: Vec<u8>) -> &mut Self {
        self.tensors.push(Tensor { name: name.into(), ty, shape: shape.to_vec(), data });
        self
    }

    /// Writes the file: metadata and tensors in the order added, padded to the alignment.
    ///
    /// # Errors
    /// [`GgufError::DataLength`] if a tensor's data does not match its type and shape; any error of the reader, such
    /// as [`GgufError::DuplicateKey`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, GgufError> {
        let alignment = self.alignment();
        let mut out = Out(Vec::new());
        out.bytes(&MAGIC);
        out.u32(*VERSIONS.end());
        out.len(self.tensors.len());
        out.len(self.metadata.len());
        for (key, value) in &self.metadata {
            out.string(key);
            out.value(value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            tensor.check()?;
            out.string(&tensor.name);
            out.u32(tensor.shape.len() as u32);
            tensor.shape.iter().for_each(|&n| out.bytes(&n.to_le_bytes()));
            out.u32(tensor.ty.ggml_id());
            out.len(offset);
            offset += tensor.data.len().next_multiple_of(alignment);
        }
        out.pad(alignment);
        for tensor in &self.tensors {
            out.bytes(&tensor.data);
            out.pad(alignment);
        }
        // The reader decides what is valid.
        Directory::parse(&out.0, out.0.len() as u64)?;
        Ok(out.0)
    }

    /// Returns the alignment set in the metadata. An invalid one is left for the reader to reject.
    fn alignment(&self) -> usize {
        let asked = self.metadata.iter().find_map(|(key, value)| match value {
            Value::U32(alignment) if key == ALIGNMENT_KEY => Some(*alignment),
            _ => None,
        });
        asked.filter(|&alignment| alignment_is_valid(alignment)).unwrap_or(DEFAULT_ALIGNMENT) as usize
    }
}

impl Tensor {
    fn check(&self) -> Result<(), GgufError> {
        let tensor = self.name.clone();
        let found = self.data.len() as u64;
        match data_bytes(self.ty, &self.shape) {
            Ok(expected) if expected == found => Ok(()),
            Ok(expected) => Err(GgufError::DataLength { tensor, expected, found }),
            Err(SizeError::PartialBlock { row_len }) => Err(GgufError::PartialBlock { tensor, row_len, ty: self.ty }),
            Err(SizeError::TooLarge) => Err(GgufError::TensorSize { tensor, shape: self.shape.clone() }),
        }
    }
}

/// The bytes written so far.
struct Out(Vec<u8>);

impl Out {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn len(&mut self, len: usize) {
        self.bytes(&(len as u64).to_le_bytes());
    }

    fn pad(&mut self, alignment: usize) {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
    }

    fn string(&mut self, text: &str) {
        self.len(text.len());
        self.bytes(text.as_bytes());
    }

    fn numbers<const N: usize, T: Copy>(&mut self, type_id: u32, values: &[T], to_bytes: impl Fn(T) -> [u8; N]) {
        self.u32(type_id);
        self.len(values.len());
        values.iter().for_each(|&value| self.bytes(&to_bytes(value)));
    }

    fn number<const N: usize>(&mut self, type_id: u32, bytes: [u8; N]) {
        self.u32(type_id);
        self.bytes(&bytes);
    }

    /// Writes the type and the value.
    fn value(&mut self, value: &Value) {
        match value {
            Value::U8(v) => self.number(id::U8, v.to_le_bytes()),
            Value::I8(v) => self.number(id::I8, v.to_le_bytes()),
            Value::U16(v) => self.number(id::U16, v.to_le_bytes()),
            Value::I16(v) => self.number(id::I16, v.to_le_bytes()),
            Value::U32(v) => self.number(id::U32, v.to_le_bytes()),
            Value::I32(v) => self.number(id::I32, v.to_le_bytes()),
            Value::F32(v) => self.number(id::F32, v.to_le_bytes()),
            Value::Bool(v) => self.number(id::BOOL, [u8::from(*v)]),
            Value::U64(v) => self.number(id::U64, v.to_le_bytes()),
            Value::I64(v) => self.number(id::I64, v.to_le_bytes()),
            Value::F64(v) => self.number(id::F64, v.to_le_bytes()),
            Value::String(v) => {
                self.u32(id::STRING);
                self.string(v);
            }
            Value::Array(v) => {
                self.u32(id::ARRAY);
                self.array(v);
            }
        }
    }

    /// Writes the element type, the number of elements, and the elements.
    fn array(&mut self, array: &Array) {
        match array {
            Array::U8(v) => self.numbers(id::U8, v, u8::to_le_bytes),
            Array::I8(v) => self.numbers(id::I8, v, i8::to_le_bytes),
            Array::U16(v) => self.numbers(id::U16, v, u16::to_le_bytes),
            Array::I16(v) => self.numbers(id::I16, v, i16::to_le_bytes),
            Array::U32(v) => self.numbers(id::U32, v, u32::to_le_bytes),
            Array::I32(v) => self.numbers(id::I32, v, i32::to_le_bytes),
            Array::F32(v) => self.numbers(id::F32, v, f32::to_le_bytes),
            Array::Bool(v) => self.numbers(id::BOOL, v, |v| [u8::from(v)]),
            Array::U64(v) => self.numbers(id::U64, v, u64::to_le_bytes),
            Array::I64(v) => self.numbers(id::I64, v, i64::to_le_bytes),
            Array::F64(v) => self.numbers(id::F64, v, f64::to_le_bytes),
            Array::String(v) => {
                self.u32(id::STRING);
                self.len(v.len());
                v.iter().for_each(|text| self.string(text));
            }
            Array::Array(v) => {
                self.u32(id::ARRAY);
                self.len(v.len());
                v.iter().for_each(|array| self.array(array));
            }
        }
    }
}
