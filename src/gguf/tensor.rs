//! A file's tensors: their directory entries, and the checks that make their data safe to use.

use super::GgufError;
use super::read_value::text;
use super::reader::Reader;
use crate::quant::WeightType;

/// Bytes of the shortest directory entry: length of the name, its one byte, number of dimensions, one dimension, type,
/// offset.
pub(super) const MIN_ENTRY: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// The format's limit, in bytes (ggml's `GGML_MAX_NAME`).
const NAME_MAX: u64 = 64;
const MAX_DIMENSIONS: u32 = 4;

/// Where a tensor is in the file, and what it is made of.
///
/// One that a [`Gguf`](super::Gguf) has handed out is consistent: `shape` has 1 to 4 dimensions, none zero; the first
/// is a multiple of the type's block length; `bytes` follows from type and shape; and the data are within the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// How the weights are stored.
    pub ty: WeightType,
    /// Dimensions in ggml's order: the length of a row first, the slowest last.
    pub shape: Vec<u64>,
    /// Where the data begin, in bytes from the start of the file; a multiple of the file's alignment.
    pub offset: u64,
    /// Length of the data in bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// Weights in the tensor: the product of its dimensions.
    pub fn elements(&self) -> u64 {
        self.rows().saturating_mul(self.row_len())
    }

    /// Rows in the tensor: the product of all dimensions but the first.
    pub fn rows(&self) -> u64 {
        self.shape.iter().skip(1).fold(1, |rows, &n| rows.saturating_mul(n))
    }

    /// Weights in a row: the first dimension.
    pub fn row_len(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Where the data end; the checks have made sure that it does not overflow.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// Reads one entry; its `offset` counts from the start of the data section until [`place`] moves it.
pub(super) fn entry(reader: &mut Reader<'_>, alignment: u64) -> Result<TensorInfo, GgufError> {
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
        return Err(GgufError::TensorType { tensor: name, id: type_id });
    };
    let bytes = match data_bytes(ty, &shape) {
        Ok(bytes) => bytes,
        Err(SizeError::PartialBlock { row_len }) => return Err(GgufError::PartialBlock { tensor: name, row_len, ty }),
        Err(SizeError::TooLarge) => return Err(GgufError::TensorSize { tensor: name, shape }),
    };
    if !offset.is_multiple_of(alignment) {
        return Err(GgufError::Misaligned { tensor: name, offset, alignment });
    }
    Ok(TensorInfo { name, ty, shape, offset, bytes })
}

/// Why a shape has no size.
pub(super) enum SizeError {
    PartialBlock { row_len: u64 },
    TooLarge,
}

/// Bytes of a tensor's data.
pub(super) fn data_bytes(ty: WeightType, shape: &[u64]) -> Result<u64, SizeError> {
    let block_len = ty.block_len() as u64;
    let row_len = shape.first().copied().unwrap_or(1);
    if !row_len.is_multiple_of(block_len) {
        return Err(SizeError::PartialBlock { row_len });
    }
    // Both counts stay below 2⁶³, as ggml's are signed.
    let elements = shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
    let bytes = elements
        .filter(|&n| i64::try_from(n).is_ok())
        .and_then(|n| (n / block_len).checked_mul(ty.block_bytes() as u64));
    bytes.filter(|&n| i64::try_from(n).is_ok()).ok_or(SizeError::TooLarge)
}

/// Turns offsets in the data section, which begins at `data_start`, into offsets in the file, and checks that every
/// tensor's data are within the file and no two tensors' data overlap.
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
