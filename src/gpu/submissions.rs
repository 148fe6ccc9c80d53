//! Splitting of a plan into submissions of equal cost, and of dispatches that cost more than a submission should.

use super::{Grid, Plan};

/// The maximum number of parts of a dispatch.
const MAX_PARTS: u32 = 64;

/// A part of a dispatch's grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DispatchPart {
    /// The first workgroup.
    pub(super) first: [u32; 2],
    pub(super) grid: Grid,
    pub(super) cost: f64,
    pub(super) starts_submission: bool,
}

/// Splits a plan into about `count` submissions, and returns the parts of each step: none for a step on the host. No
/// submission costs more than its share, unless it is a single workgroup or the dispatch has [`MAX_PARTS`] parts.
pub(super) fn split(plan: &Plan, count: usize) -> Vec<Vec<DispatchPart>> {
    let cost = |step: &super::Step| if step.on_host { 0.0 } else { step.op.cost().max(1) as f64 };
    let total: f64 = plan.steps.iter().map(cost).sum();
    let share = if count == usize::MAX { 0.0 } else { total / count.max(1) as f64 };
    // Sums of shares have rounding errors.
    let max = share * (1.0 + 1e-9);
    let mut submission = 0.0;
    let mut split = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let mut parts = if step.on_host { Vec::new() } else { parts(step.op.grid(), cost(step), max) };
        for part in &mut parts {
            part.starts_submission = submission + part.cost > max;
            submission = if part.starts_submission { part.cost } else { submission + part.cost };
        }
        split.push(parts);
    }
    split
}

/// Splits a grid into parts of cost `max` at most: whole rows, or parts of one.
fn parts(grid: Grid, cost: f64, max: f64) -> Vec<DispatchPart> {
    let wanted = (cost / max).ceil().clamp(1.0, f64::from(MAX_PARTS)) as u32;
    let height = size(grid.y, wanted, MAX_PARTS);
    let rows = grid.y.div_ceil(height).max(1);
    let mut width = size(grid.x, wanted.div_ceil(rows), MAX_PARTS / rows);
    if width < grid.x && width > Grid::FOLD {
        // The last fold of a part would contain workgroups of the next.
        width -= width % Grid::FOLD;
    }
    let mut parts = Vec::new();
    for y in (0..grid.y).step_by(height as usize) {
        for x in (0..grid.x).step_by(width as usize) {
            let part = Grid { x: width.min(grid.x - x), y: height.min(grid.y - y) };
            let area = |grid: Grid| f64::from(grid.x) * f64::from(grid.y);
            let cost = cost * (area(part) / area(grid));
            parts.push(DispatchPart { first: [x, y], grid: part, cost, starts_submission: false });
        }
    }
    parts
}

/// Returns the size of a part of `len`, for at least `wanted` parts and at most `max`.
fn size(len: u32, wanted: u32, max: u32) -> u32 {
    (len / wanted.max(1)).max(len.div_ceil(max.max(1))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how many parts contain each workgroup, numbered as by `grid_id` of wgsl/lib/grid.wgsl.
    fn covered(grid: Grid, parts: &[DispatchPart]) -> Vec<u32> {
        let mut times = vec![0; (grid.x * grid.y) as usize];
        for part in parts {
            let [x, y, z] = part.grid.workgroups(65_535).expect("it fits");
            for (z, y, x) in (0..z).flat_map(|z| (0..y).flat_map(move |y| (0..x).map(move |x| (z, y, x)))) {
                let (x, y) = (x + Grid::FOLD * z + part.first[0], y + part.first[1]);
                assert!(y < grid.y);
                // Kernels skip the workgroups beyond the grid.
                if x < grid.x {
                    times[(y * grid.x + x) as usize] += 1;
                }
            }
        }
        times
    }

    #[test]
    fn parts_cover_a_grid_once_and_none_costs_too_much() {
        for (x, y) in [(1, 1), (1, 7), (5, 1), (24, 5), (3, 127), (1000, 3), (40_000, 2), (100_000, 1), (32_769, 3)] {
            let grid = Grid { x, y };
            for wanted in [1, 2, 3, 7, 64, 65, 5000] {
                let parts = super::parts(grid, 1.0, 1.0 / f64::from(wanted));
                assert!(covered(grid, &parts).iter().all(|times| *times == 1), "{grid:?} in {wanted}");
                assert!(parts.len() <= MAX_PARTS as usize, "{grid:?} in {wanted}: {}", parts.len());
                let largest = parts.iter().map(|part| part.cost).fold(0.0, f64::max);
                let least = [1.0 / f64::from(wanted), 2.0 / f64::from(MAX_PARTS), 1.0 / f64::from(x * y)];
                let most = least.into_iter().fold(0.0, f64::max);
                assert!(largest <= most * 1.000_001, "{grid:?} in {wanted}: {largest}, not {most}");
            }
            assert_eq!(super::parts(grid, 1.0, 1.0).len(), 1);
        }
    }
}
