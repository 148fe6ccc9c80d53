//! Sorts the assignments of tokens to experts by expert, for the expert products that take several rows at once.

use super::router_topk;
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// Sorts the assignments of tokens to experts, the entries of `ids`, by expert: a stable counting sort by one workgroup.
    ///
    /// Shapes: `ids` `[assignments]`, clamped to the experts, of which there are at most [`MAX_EXPERTS`]; `counts` `[experts]`
    /// assignments of each expert; `offsets` `[experts + 1]` where an expert's start in `sorted` `[assignments]`, which holds
    /// the indices of each expert's assignments in ascending order. `tiles` `[max_tiles]` of (expert, first, end, 0) cuts each
    /// expert's assignments into tiles of at most `tile_rows`; the unused entries are empty tiles. `grids` `[6]` are the
    /// indirect arguments (x, y, z) of two products over the tiles. Bound: exact.
    pub struct MoeSort("moe/sort") for ();
    params {
        /// Assignments: tokens times experts per token.
        assignments: u32,
        /// Experts.
        experts: u32,
        /// Assignments of a tile: rows that the product computes at once.
        tile_rows: u32,
        /// Entries of `tiles`: at least [`max_tiles`].
        max_tiles: u32,
        /// Workgroups along x of the first product.
        first_grid: u32,
        /// Workgroups along x of the second product.
        second_grid: u32,
    }
    binds {
        /// The expert of each assignment.
        ids: read [u32],
        /// Assignments of each expert.
        counts: write [u32],
        /// Where each expert's start in `sorted`.
        offsets: write [u32],
        /// Indices of assignments by expert.
        sorted: write [u32],
        /// The list of tiles.
        tiles: write [[u32; 4]],
        /// Indirect arguments.
        grids: write [u32],
    }
}

/// The largest number of experts: those that a router chooses from, and a shared one.
pub const MAX_EXPERTS: u32 = router_topk::MAX_EXPERTS + 1;

const WG: u32 = 256;

/// Returns the largest number of tiles: `b + ⌊(assignments − b) / tile_rows⌋` with `b = min(experts, assignments)`, since each
/// expert with assignments begins a tile.
pub fn max_tiles(assignments: u32, experts: u32, tile_rows: u32) -> u32 {
    let begun = experts.min(assignments);
    begun + (assignments - begun) / tile_rows.max(1)
}

impl Kernel for MoeSort {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("moe/sort.wgsl"), WG)
    }

    fn grid((): (), _: &Params) -> Grid {
        Grid { x: 1, y: 1 }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let made = sorted(p, host.ids);
        host.counts[..made.counts.len()].copy_from_slice(&made.counts);
        host.offsets[..made.offsets.len()].copy_from_slice(&made.offsets);
        host.sorted[..made.sorted.len()].copy_from_slice(&made.sorted);
        host.tiles[..made.tiles.len()].copy_from_slice(&made.tiles);
        host.grids[..made.grids.len()].copy_from_slice(&made.grids);
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let made = sorted(p, before.ids);
        let over = |before: &[u32], made: &[u32]| {
            Some(Expect::Exact([made, before.get(made.len()..).unwrap_or_default()].concat()))
        };
        Some(Expected {
            counts: over(before.counts, &made.counts),
            offsets: over(before.offsets, &made.offsets),
            sorted: over(before.sorted, &made.sorted),
            tiles: over(bytemuck::cast_slice(before.tiles), bytemuck::cast_slice(&made.tiles)),
            grids: over(before.grids, &made.grids),
            ..Default::default()
        })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        let mut rng = Rng::new(16);
        let tile = 32;
        let mut random = |count: u32, experts: u32| (0..count).map(|_| rng.below(experts)).collect();
        let shared = (0..90).flat_map(|i| [i * 37 % 512, i * 11 % 512, 512]).collect();
        // Experts with no assignments, one, a whole tile, and one more.
        let edges = [(1, 1), (2, tile), (3, tile + 1), (5, 2 * tile)];
        let edges = edges.into_iter().flat_map(|(expert, count)| (0..count).map(move |_| expert)).collect();
        [
            ("Qwen3-30B-A3B, 300 tokens", 128, tile, random(2400, 128)),
            ("Qwen3-30B-A3B, 20 tokens", 128, 4, random(160, 128)),
            ("512 experts", 512, 4, random(777, 512)),
            ("512 experts and a shared one", 513, 4, shared),
            ("around a tile", 8, tile, edges),
            ("all on one expert", 60, 3, vec![59; 100]),
            ("the largest number of tiles", 3, 4, vec![0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]),
            ("one assignment", 4, tile, vec![2]),
            ("an id out of range", 4, tile, vec![1, 99, 0]),
        ]
        .into_iter()
        .map(|(name, experts, tile_rows, ids): (&str, u32, u32, Vec<u32>)| {
            let assignments = ids.len() as u32;
            // No spare tiles, or three.
            let max_tiles = max_tiles(assignments, experts, tile_rows) + 3 * u32::from(tile_rows == tile);
            let params = Params { assignments, experts, tile_rows, max_tiles, first_grid: 12, second_grid: 32 };
            let made = sorted(&params, &ids);
            let unset = |len: usize| vec![u32::MAX; len];
            let tiles: Vec<[u32; 4]> = vec![[u32::MAX; 4]; made.tiles.len()];
            Case {
                name: name.to_owned(),
                params,
                data: Data {
                    ids,
                    counts: unset(made.counts.len()),
                    offsets: unset(made.offsets.len()),
                    sorted: unset(made.sorted.len()),
                    tiles,
                    grids: unset(made.grids.len()),
                },
                expected: Expected {
                    counts: Some(Expect::Exact(made.counts)),
                    offsets: Some(Expect::Exact(made.offsets)),
                    sorted: Some(Expect::Exact(made.sorted)),
                    tiles: Some(Expect::Exact(bytemuck::cast_slice(&made.tiles).to_vec())),
                    grids: Some(Expect::Exact(made.grids.to_vec())),
                    ..Default::default()
                },
            }
        })
        .collect()
    }
}

/// What [`MoeSort`] writes.
pub(crate) struct Sorted {
    pub(crate) counts: Vec<u32>,
    pub(crate) offsets: Vec<u32>,
    pub(crate) sorted: Vec<u32>,
    pub(crate) tiles: Vec<[u32; 4]>,
    pub(crate) grids: [u32; 6],
}

/// Returns what [`MoeSort`] writes.
pub(crate) fn sorted(p: &Params, ids: &[u32]) -> Sorted {
    debug_assert!(p.experts <= MAX_EXPERTS);
    let expert = |i: u32| ids.get(i as usize).map_or(0, |id| (*id).min(p.experts - 1));
    let mut sorted: Vec<u32> = (0..p.assignments).collect();
    sorted.sort_by_key(|i| expert(*i));
    let counts: Vec<u32> = (0..p.experts).map(|e| sorted.iter().filter(|i| expert(**i) == e).count() as u32).collect();
    let mut offsets = vec![0];
    let mut tiles = Vec::new();
    for (e, count) in (0u32..).zip(&counts) {
        let start = offsets[e as usize];
        let firsts = (0..*count).step_by(p.tile_rows.max(1) as usize);
        tiles.extend(firsts.map(|first| [e, start + first, start + (first + p.tile_rows.max(1)).min(*count), 0]));
        offsets.push(start + count);
    }
    let used = tiles.len() as u32;
    tiles.resize(p.max_tiles as usize, [0; 4]);
    Sorted { counts, offsets, sorted, tiles, grids: [p.first_grid, used, 1, p.second_grid, used, 1] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_tiles_is_the_least_upper_bound() {
        let mut rng = Rng::new(5);
        for _ in 0..300 {
            let (assignments, experts, tile_rows) = (1 + rng.below(70), 1 + rng.below(12), 1 + rng.below(9));
            let most = max_tiles(assignments, experts, tile_rows);
            let params = Params { assignments, experts, tile_rows, max_tiles: 0, ..Default::default() };
            let tiles = |ids: &[u32]| sorted(&params, ids).grids[1];
            let random: Vec<u32> = (0..assignments).map(|_| rng.below(experts)).collect();
            assert!(tiles(&random) <= most);
            // One assignment for each expert, and the rest for the last one.
            let worst: Vec<u32> = (0..assignments).map(|i| i.min(experts - 1)).collect();
            assert_eq!(tiles(&worst), most, "{assignments} of {experts} experts by {tile_rows}");
        }
    }
}
