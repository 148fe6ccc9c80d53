//! The tensor directory: entries, and the checks that make tensor data safe to use.

use super::GgufError;
use super::read_value::text;
use super::reader::Reader;
use crate::quant::WeightType;

/// Size in bytes of the shortest entry: name length, one byte of name, dimension count, one dimension, type, offset.
pub(super) const MIN_ENTRY: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// The format's limit on name length in bytes (ggml's `GGML_MAX_NAME`).
const NAME_MAX: u64 = 64;
const MAX_DIMENSIONS: u32 = 4;

/// A tensor's entry in the directory of a file.
///
/// An entry returned by [`Gguf`](super::Gguf) is consistent: `shape` has 1 to 4 dimensions, none zero; the first is a
/// multiple of the type's block length; `bytes` follows from type and shape; the data is inside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// The quantization or float type of the weights.
    pub ty: WeightType,
    /// The dimensions in ggml's order: row length first.
    pub shape: Vec<u64>,
    /// The part of a split model whose file has the data, from 0 on.
    pub part: u32,
    /// The offset of the data in bytes from the start of that file; a multiple of the file's alignment.
    pub offset: u64,
    /// The length of the data in bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// Returns the number of weights: the product of the dimensions.
    pub fn elements(&self) -> u64 {
        self.rows().saturating_mul(self.row_len())
    }

    /// Returns the number of rows: the product of all dimensions but the first.
    pub fn rows(&self) -> u64 {
        self.shape.iter().skip(1).fold(1, |rows, &n| rows.saturating_mul(n))
    }

    /// Returns the number of weights in a row: the first dimension.
    pub fn row_len(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Returns the end of the data. Validation has ruled out overflow.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// A tensor of a type that this crate does not read. Its size is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreadTensor {
    /// The name.
    pub name: String,
    /// ggml's number of the type.
    pub type_id: u32,
    /// The dimensions in ggml's order.
    pub shape: Vec<u64>,
}

impl UnreadTensor {
    /// Returns the reason not to read it.
    pub fn reason(&self) -> GgufError {
        GgufError::TensorType { tensor: self.name.clone(), id: self.type_id }
    }
}

/// An entry of the directory.
pub(super) enum Entry {
    Read(TensorInfo),
    Unread(UnreadTensor),
}

/// Reads one entry. Its `offset` counts from the start of the data section until [`place`] adjusts it.
pub(super) fn entry(reader: &mut Reader<'_>, alignment: u64) -> Result<Entry, GgufError> {
    let start = reader.offset();
    let len = reader.u64("the length of a tensor name")?;
    if !(1..=NAME_MAX).contains(&len) {
        return Err(GgufError::NameLength { offset: start, len, max: NAME_MAX });
    }
    let name = text(reader, "tensor name", None, len)?;
    let dimensions = reader.u32("a tensor's number of dimensions")?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(GgufError::Dimensions { tensor: name, found: dimensions });
    }
    let shape = (0..dimensions).map(|_| reader.u64("a tensor's dimensions")).collect::<Result<Vec<_>, _>>()?;
    let type_id = reader.u32("a tensor's type")?;
    let offset = reader.u64("a tensor's data offset")?;
    reader.charge(1, size_of::<TensorInfo>() + size_of_val(shape.as_slice()))?;

    if let Some(axis) = shape.iter().position(|&n| n == 0) {
        return Err(GgufError::ZeroDimension { tensor: name, axis });
    }
    let Some(ty) = WeightType::from_ggml_id(type_id) else {
        return Ok(Entry::Unread(UnreadTensor { name, type_id, shape }));
    };
    let bytes = match data_bytes(ty, &shape) {
        Ok(bytes) => bytes,
        Err(SizeError::PartialBlock { row_len }) => return Err(GgufError::PartialBlock { tensor: name, row_len, ty }),
        Err(SizeError::TooLarge) => return Err(GgufError::TensorSize { tensor: name, shape }),
    };
    if !offset.is_multiple_of(alignment) {
        return Err(GgufError::Misaligned { tensor: name, offset, alignment });
    }
    Ok(Entry::Read(TensorInfo { name, ty, shape, part: 0, offset, bytes }))
}

/// The reason that a shape has no valid size.
pub(super) enum SizeError {
    PartialBlock { row_len: u64 },
    TooLarge,
}

/// Returns the number of bytes of a tensor's data.
pub(super) fn data_bytes(ty: WeightType, shape: &[u64]) -> Result<u64, SizeError> {
    let block_len = ty.block_len() as u64;
    let row_len = shape.first().copied().unwrap_or(1);
    if !row_len.is_multiple_of(block_len) {
        return Err(SizeError::PartialBlock { row_len });
    }
    // Both counts stay below 2⁶³: ggml's are signed.
    let elements = shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
    let bytes = elements
        .filter(|&n| i64::try_from(n).is_ok())
        .and_then(|n| (n / block_len).checked_mul(ty.block_bytes() as u64));
    bytes.filter(|&n| i64::try_from(n).is_ok()).ok_or(SizeError::TooLarge)
}

/// Converts offsets in the data section, which starts at `data_start`, to offsets in the file. Checks that all tensor
/// data is inside the file and that no two tensors overlap.
pub(super) fn place(tensors: &mut [TensorInfo], data_start: u64, file_len: u64) -> Result<(), GgufError> {
    let available = file_len.saturating_sub(data_start);
    for tensor in tensors.iter_mut() {
        let (offset, bytes) = (tensor.offset, tensor.bytes);
        match (offset.checked_add(bytes), data_start.checked_add(offset)) {
            (Some(end), Some(in_file)) if end <= available => tensor.offset = in_file,
            _ => {
                let tensor = tensor.name.clone();
                return Err(GgufError::OutOfFile { tensor, offset, bytes, available });
            }
        }
    }
    let mut in_order: Vec<&TensorInfo> = tensors.iter().collect();
    in_order.sort_by_key(|tensor| tensor.offset);
    for pair in in_order.windows(2) {
        if let [first, second] = pair
            && first.end() > second.offset
        {
            return Err(GgufError::Overlap { first: first.name.clone(), second: second.name.clone() });
        }
    }
    Ok(())
}
