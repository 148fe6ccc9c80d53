//! Cutting a plan into submissions of about as much work, and dispatches of more than that into pieces of their grids.

use super::{Grid, Plan};

/// The most pieces that a dispatch is cut into.
const MOST_PIECES: u32 = 64;

/// A piece of a dispatch's grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Piece {
    /// Its first workgroup.
    pub(super) first: [u32; 2],
    pub(super) grid: Grid,
    pub(super) work: f64,
    /// Whether a submission begins with it.
    pub(super) begins: bool,
}

/// The pieces of each step, for so many submissions or a few more: none does more than its share of the work, but for what is
/// less than a workgroup or would be more than [`MOST_PIECES`]. Steps on the host have no pieces.
pub(super) fn cut(plan: &Plan, parts: usize) -> Vec<Vec<Piece>> {
    let work = |step: &super::Step| if step.on_host { 0.0 } else { step.op.cost().max(1) as f64 };
    let all: f64 = plan.steps.iter().map(work).sum();
    let share = if parts == usize::MAX { 0.0 } else { all / parts.max(1) as f64 };
    // Sums of shares are a little off.
    let most = share * (1.0 + 1e-9);
    let mut filled = 0.0;
    let mut cut = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let mut pieces = if step.on_host { Vec::new() } else { pieces(step.op.grid(), work(step), most) };
        for piece in &mut pieces {
            piece.begins = filled + piece.work > most;
            filled = if piece.begins { piece.work } else { filled + piece.work };
        }
        cut.push(pieces);
    }
    cut
}

/// A grid in pieces of no more than `most` of its work: of whole rows, or of parts of one.
fn pieces(grid: Grid, work: f64, most: f64) -> Vec<Piece> {
    let wanted = (work / most).ceil().clamp(1.0, f64::from(MOST_PIECES)) as u32;
    let height = size(grid.y, wanted, MOST_PIECES);
    let rows = grid.y.div_ceil(height).max(1);
    let mut width = size(grid.x, wanted.div_ceil(rows), MOST_PIECES / rows);
    if width < grid.x && width > Grid::FOLD {
        // Were a folded piece not whole, its last workgroups would be those of the next.
        width -= width % Grid::FOLD;
    }
    let mut pieces = Vec::new();
    for y in (0..grid.y).step_by(height as usize) {
        for x in (0..grid.x).step_by(width as usize) {
            let grid_of = Grid { x: width.min(grid.x - x), y: height.min(grid.y - y) };
            let area = |grid: Grid| f64::from(grid.x) * f64::from(grid.y);
            let work = work * (area(grid_of) / area(grid));
            pieces.push(Piece { first: [x, y], grid: grid_of, work, begins: false });
        }
    }
    pieces
}

/// How many of `len` are in a piece, where at least `wanted` pieces are wanted, and `most` at most.
fn size(len: u32, wanted: u32, most: u32) -> u32 {
    (len / wanted.max(1)).max(len.div_ceil(most.max(1))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each workgroup is in a piece, as `grid_id` of wgsl/lib/grid.wgsl numbers those of what is dispatched.
    fn covered(grid: Grid, pieces: &[Piece]) -> Vec<u32> {
        let mut times = vec![0; (grid.x * grid.y) as usize];
        for piece in pieces {
            let [x, y, z] = piece.grid.workgroups(65_535).expect("it fits");
            for (z, y, x) in (0..z).flat_map(|z| (0..y).flat_map(move |y| (0..x).map(move |x| (z, y, x)))) {
                let (x, y) = (x + Grid::FOLD * z + piece.first[0], y + piece.first[1]);
                assert!(y < grid.y);
                // Kernels leave out what the last fold has more.
                if x < grid.x {
                    times[(y * grid.x + x) as usize] += 1;
                }
            }
        }
        times
    }

    #[test]
    fn pieces_cover_a_grid_once_and_none_is_too_large() {
        for (x, y) in [(1, 1), (1, 7), (5, 1), (24, 5), (3, 127), (1000, 3), (40_000, 2), (100_000, 1), (32_769, 3)] {
            let grid = Grid { x, y };
            for wanted in [1, 2, 3, 7, 64, 65, 5000] {
                let pieces = pieces(grid, 1.0, 1.0 / f64::from(wanted));
                assert!(covered(grid, &pieces).iter().all(|times| *times == 1), "{grid:?} in {wanted}");
                assert!(pieces.len() <= MOST_PIECES as usize, "{grid:?} in {wanted}: {}", pieces.len());
                let largest = pieces.iter().map(|piece| piece.work).fold(0.0, f64::max);
                let least = [1.0 / f64::from(wanted), 2.0 / f64::from(MOST_PIECES), 1.0 / f64::from(x * y)];
                let most = least.into_iter().fold(0.0, f64::max);
                assert!(largest <= most * 1.000_001, "{grid:?} in {wanted}: {largest}, not {most}");
            }
            assert_eq!(pieces(grid, 1.0, 1.0).len(), 1);
        }
    }
}
