//! Matrices and vectors as rows of a file's tensors: whole, reordered, or joined.

use std::ops::Range;

use super::tree;
use crate::{gguf::TensorInfo, quant::Planes};

/// A weight matrix `[n, k]`, or one for each expert: the rows of one tensor, or of several.
#[derive(Clone, Debug)]
pub(crate) struct MatrixInfo<'a> {
    pub(crate) rows: Vec<TensorRows<'a>>,
    pub(crate) join: Join,
    pub(crate) planes: Planes,
    pub(crate) n: u32,
    pub(crate) experts: u32,
}

/// Rows of a tensor: all, or a range of each expert's where a tensor fuses several projections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorRows<'a> {
    pub(crate) tensor: &'a TensorInfo,
    pub(crate) range: RowRange,
    /// A factor of the tensor, or of each expert's matrix.
    pub(crate) scales: Option<&'a TensorInfo>,
}

/// `count` rows from row `first` on of every `stride` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowRange {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) stride: u64,
}

impl RowRange {
    /// Returns all of `count` rows.
    pub(super) fn all(count: u64) -> Self {
        Self { first: 0, count, stride: count }
    }

    /// Returns whether it leaves out no row.
    pub(crate) fn is_whole(self) -> bool {
        self.count == self.stride
    }

    /// Returns the row of the tensor that is row `row` of the range.
    pub(crate) fn in_tensor(self, row: u64) -> u64 {
        row / self.count * self.stride + self.first + row % self.count
    }
}

/// The order in which a matrix has the rows of several tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// One tensor after the other.
    Concat,
    /// A row of the first half of the tensors and one of the second in turn; those of a half one after the other.
    Interleaved,
}

impl MatrixInfo<'_> {
    /// Returns the name of its first tensor.
    pub(crate) fn name(&self) -> &str {
        self.rows.first().map_or("", |rows| &rows.tensor.name)
    }

    /// Returns its bytes in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.planes.file_row_bytes() * self.planes.rows()
    }

    /// Returns the number of rows that must stay in one buffer: an expert's matrix, or a row of gate and one of up.
    pub(crate) fn step(&self) -> u32 {
        match self.join {
            _ if self.experts > 1 => self.n,
            Join::Concat => 1,
            Join::Interleaved => 2,
        }
    }
}

/// A vector: the elements of one tensor, or of several, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct VectorInfo<'a> {
    /// Ranges are of elements.
    pub(crate) parts: Vec<TensorRows<'a>>,
    /// A factor of its elements.
    pub(crate) scale: f64,
}

impl<'a> VectorInfo<'a> {
    /// Returns all elements of a tensor.
    pub(super) fn whole(tensor: &'a TensorInfo) -> Self {
        Self { parts: vec![TensorRows { tensor, range: RowRange::all(tensor.elements()), scales: None }], scale: 1.0 }
    }

    /// Returns the elements of two vectors.
    pub(super) fn then(&self, next: &Self) -> Self {
        Self { parts: [&self.parts[..], &next.parts[..]].concat(), scale: 1.0 }
    }

    /// Returns the elements in `segments`, in their order.
    pub(super) fn permuted(&self, segments: &[Range<u32>]) -> Self {
        let of = |part: &TensorRows<'a>| segments_of(*part, part.range.stride, segments);
        Self { parts: self.parts.first().map(of).unwrap_or_default(), scale: self.scale }
    }

    /// Returns the name of its first tensor.
    pub(crate) fn name(&self) -> &str {
        self.parts.first().map_or("", |part| &part.tensor.name)
    }

    /// Returns its bytes in the file.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = |part: &TensorRows<'_>| part.tensor.bytes / part.range.stride.max(1) * part.range.count;
        self.parts.iter().map(bytes).sum()
    }

    /// Returns the number of its elements.
    pub(crate) fn elements(&self) -> u64 {
        self.parts.iter().map(|part| part.range.count).sum()
    }
}

/// Returns `segments` of a tensor's rows, adjacent ones as one.
fn segments_of<'a>(whole: TensorRows<'a>, rows: u64, segments: &[Range<u32>]) -> Vec<TensorRows<'a>> {
    let mut joined: Vec<Range<u32>> = Vec::new();
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        match joined.last_mut().filter(|last| last.end == segment.start) {
            Some(last) => last.end = segment.end,
            None => joined.push(segment.clone()),
        }
    }
    let rows_of = |Range { start, end }: Range<u32>| TensorRows {
        range: RowRange { first: start.into(), count: (end - start).into(), stride: rows },
        ..whole
    };
    joined.into_iter().map(rows_of).collect()
}

pub(super) type Linear<'a> = tree::Linear<MatrixInfo<'a>, VectorInfo<'a>>;
pub(super) type GateUp<'a> = tree::GateUp<MatrixInfo<'a>, VectorInfo<'a>>;

/// Returns the rows in `segments` of a matrix that is one tensor, in their order.
pub(super) fn segments<'a>(whole: &MatrixInfo<'a>, segments: &[Range<u32>]) -> Option<MatrixInfo<'a>> {
    let first = whole.rows.first()?;
    let n = segments.iter().map(|segment| segment.end - segment.start).sum();
    let planes = Planes::new(whole.planes.ty(), u64::from(n), whole.planes.k())?;
    Some(MatrixInfo { rows: segments_of(*first, whole.planes.rows(), segments), planes, n, ..whole.clone() })
}

/// Returns the rows in `rows` of a product that is one tensor, in their order.
pub(super) fn rows_of<'a>(whole: &Linear<'a>, rows: &[Range<u32>]) -> Option<Linear<'a>> {
    let bias = whole.bias.as_ref().map(|bias| bias.permuted(rows));
    Some(Linear { matrix: segments(&whole.matrix, rows)?, bias })
}

/// Returns a range of the rows of each expert of a matrix that is one tensor.
pub(super) fn ranged<'a>(whole: &MatrixInfo<'a>, range: RowRange) -> Option<MatrixInfo<'a>> {
    let first = whole.rows.first()?;
    let planes = Planes::new(whole.planes.ty(), range.count * u64::from(whole.experts), whole.planes.k())?;
    Some(MatrixInfo { rows: vec![TensorRows { range, ..*first }], planes, n: range.count as u32, ..whole.clone() })
}

/// Joins adjacent matrices of one format, all with a bias or all without: their input is the same.
pub(super) fn joined(linears: Vec<Linear<'_>>) -> Vec<Linear<'_>> {
    let mut all: Vec<Linear<'_>> = Vec::new();
    for linear in linears {
        let last = all.last_mut().filter(|last| last.bias.is_some() == linear.bias.is_some());
        let both = last.as_ref().map(|last| last.matrix.planes).filter(|last| last.ty() == linear.matrix.planes.ty());
        let both = both.and_then(|b| Planes::new(b.ty(), b.rows() + linear.matrix.planes.rows(), b.k()));
        match (last, both) {
            (Some(last), Some(planes)) => {
                extend(&mut last.matrix.rows, linear.matrix.rows);
                (last.matrix.planes, last.matrix.n) = (planes, last.matrix.n + linear.matrix.n);
                if let (Some(bias), Some(next)) = (&mut last.bias, linear.bias) {
                    bias.parts.extend(next.parts);
                }
            }
            _ => all.push(linear),
        }
    }
    all
}

/// Adds rows behind others, as one range where they are neighbours of one tensor.
fn extend<'a>(rows: &mut Vec<TensorRows<'a>>, more: Vec<TensorRows<'a>>) {
    for next in more {
        let adjacent = |last: &&mut TensorRows<'a>| {
            let ends = last.range.first + last.range.count;
            last.tensor.name == next.tensor.name && last.range.stride == next.range.stride && ends == next.range.first
        };
        // Ranges that repeat have more rows than `count`.
        let once = |rows: &TensorRows<'_>| rows.tensor.elements() == rows.range.stride * rows.tensor.shape[0];
        match rows.last_mut().filter(|last| once(last) && once(&next)).filter(adjacent) {
            Some(last) => last.range.count += next.range.count,
            None => rows.push(next),
        }
    }
}

/// Joins gate and up if they have one format and no biases.
pub(super) fn gate_up<'a>(gate: Linear<'a>, up: Linear<'a>) -> GateUp<'a> {
    let planes = &gate.matrix.planes;
    let fused = Planes::new(planes.ty(), 2 * planes.rows(), planes.k());
    match fused.filter(|_| *planes == up.matrix.planes && gate.bias.is_none() && up.bias.is_none()) {
        Some(planes) => {
            let rows = [gate.matrix.rows, up.matrix.rows].concat();
            let (n, experts) = (2 * gate.matrix.n, gate.matrix.experts);
            GateUp::Fused(MatrixInfo { rows, join: Join::Interleaved, planes, n, experts })
        }
        None => GateUp::Separate { gate, up },
    }
}

/// Adds a matrix to a stack as its last expert, if it has the experts' shape and format.
fn stacked<'a>(stack: &MatrixInfo<'a>, last: &MatrixInfo<'a>) -> Option<MatrixInfo<'a>> {
    let (planes, of_last) = (stack.planes, last.planes);
    if (planes.ty(), planes.k(), stack.n, stack.join) != (of_last.ty(), of_last.k(), last.n, last.join) {
        return None;
    }
    let rows = match stack.join {
        Join::Concat => [&stack.rows[..], &last.rows[..]].concat(),
        Join::Interleaved => {
            let ((gate, up), (last_gate, last_up)) =
                (stack.rows.split_at(stack.rows.len() / 2), last.rows.split_at(last.rows.len() / 2));
            [gate, last_gate, up, last_up].concat()
        }
    };
    let planes = Planes::new(planes.ty(), planes.rows() + of_last.rows(), planes.k())?;
    Some(MatrixInfo { rows, join: stack.join, planes, n: stack.n, experts: stack.experts + 1 })
}

/// Adds a matrix without a bias to a stack without biases as its last expert, as [`stacked`] does.
pub(super) fn stacked_linear<'a>(stack: &Linear<'a>, last: &Linear<'a>) -> Option<Linear<'a>> {
    let matrix = stacked(&stack.matrix, &last.matrix)?;
    (stack.bias.is_none() && last.bias.is_none()).then_some(Linear { matrix, bias: None })
}

/// Adds gate and up of an expert to those of a stack, as [`stacked`] does.
pub(super) fn stacked_gate_up<'a>(stack: &GateUp<'a>, last: &GateUp<'a>) -> Option<GateUp<'a>> {
    Some(match (stack, last) {
        (GateUp::Fused(stack), GateUp::Fused(last)) => GateUp::Fused(stacked(stack, last)?),
        (GateUp::Separate { gate, up }, GateUp::Separate { gate: last_gate, up: last_up }) => {
            GateUp::Separate { gate: stacked_linear(gate, last_gate)?, up: stacked_linear(up, last_up)? }
        }
        _ => return None,
    })
}
