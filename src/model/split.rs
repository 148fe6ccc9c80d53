//! Matrices that exceed a device's binding limit, split by rows or by experts.

use crate::quant::Planes;

/// Consecutive rows in one binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The first row, as a row of the matrix.
    pub(crate) first_row: u64,
    /// The layout of its weights.
    pub(crate) planes: Planes,
}

/// Splits matrices into parts of at most `limit` bytes, each of whole multiples of `step` rows (an expert's matrix; 1 for a
/// single matrix). All but the last are equally large. Returns `None` if `step` rows exceed the limit.
pub(crate) fn split(whole: &Planes, step: u32, limit: u64) -> Option<Vec<Part>> {
    let (ty, k, step) = (whole.ty(), whole.k(), u64::from(step));
    let part = |first_row, rows| Planes::new(ty, rows, k).map(|planes| Part { first_row, planes });
    if whole.vec4s() * 16 <= limit {
        return Some(vec![part(0, whole.rows())?]);
    }
    // Planes are padded to 16 bytes: the bytes of a part are not quite proportional to its rows.
    let mut steps =
        (u128::from(limit) * u128::from(whole.rows()) / u128::from(whole.vec4s() * 16) / u128::from(step)) as u64;
    while steps > 0 && Planes::new(ty, steps * step, k)?.vec4s() * 16 > limit {
        steps -= 1;
    }
    if steps == 0 {
        return None;
    }
    let rows = steps * step;
    (0..whole.rows()).step_by(rows as usize).map(|first| part(first, rows.min(whole.rows() - first))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::WeightType;

    /// Qwen3-30B-A3B's large tensors: type, matrices, rows of each, row length.
    const TENSORS: [(WeightType, u64, u64, u64); 4] = [
        (WeightType::Q4K, 1, 151_936, 2048),
        (WeightType::Q6K, 1, 151_936, 2048),
        (WeightType::Q4K, 128, 768, 2048),
        (WeightType::Q6K, 128, 2048, 768),
    ];

    #[test]
    fn parts_cover_every_row_once_and_keep_the_limit() {
        for limit in [128 << 20, 256 << 20, 1 << 30, (2 << 30) - 1] {
            for (ty, experts, n, k) in TENSORS {
                let whole = Planes::new(ty, experts * n, k).expect("a valid matrix");
                let step = if experts > 1 { n as u32 } else { 1 };
                let parts = split(&whole, step, limit).expect("it can be split");
                let mut next = 0;
                for part in &parts {
                    assert_eq!(part.first_row, next);
                    assert!(part.planes.vec4s() * 16 <= limit);
                    assert_eq!(part.planes.rows() % u64::from(step), 0);
                    next += part.planes.rows();
                }
                assert_eq!(next, experts * n);
                assert_eq!(parts.len() as u64, (whole.vec4s() * 16).div_ceil(limit), "{ty} at {limit}");
            }
        }
    }

    #[test]
    fn what_cannot_be_split_is_refused() {
        let whole = Planes::new(WeightType::F32, 10, 1024).expect("a valid matrix");
        assert!(split(&whole, 1, 4095).is_none());
        assert_eq!(split(&whole, 1, 4096).map(|parts| parts.len()), Some(10));
        assert!(split(&whole, 5, 4096).is_none());
    }
}
