//! Expert offload: an LRU cache on the device for the experts of a model that does not fit.
//!
//! Each layer has slots for some of its experts. After its router has run, the host reads the chosen ids, loads missing experts
//! from the file into the least recently used slots, and writes the slot of each assignment. If the chosen experts are more
//! than the slots, the matrix products run in several passes, those with cached experts first. An assignment that belongs to
//! another pass has a slot index beyond the last.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{ModelError, file_rows::FileRows, weights::MatrixPart};
use crate::gpu::{Acting, Buffer, Device, GpuError, HostAction, Readback, lock};

/// Counters of an expert cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertCacheStats {
    /// Experts of each layer that the device holds at once.
    pub slots: u32,
    /// Chosen experts that were cached. An expert counts once for each pass and layer.
    pub hits: u64,
    /// Chosen experts that were loaded from the file.
    pub misses: u64,
    /// Bytes of the file that were loaded.
    pub bytes: u64,
}

impl ExpertCacheStats {
    /// Returns `hits / (hits + misses)`, or 1 where there are neither.
    pub fn hit_rate(&self) -> f64 {
        let all = self.hits + self.misses;
        if all == 0 { 1.0 } else { self.hits as f64 / all as f64 }
    }

    /// Returns the counters less those of `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            slots: self.slots,
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// The cached experts of a model.
#[derive(Debug)]
pub(crate) struct ExpertCache {
    slots: u32,
    layers: Vec<CachedLayer>,
    /// Whether an engine uses it: slots change between its dispatches.
    leased: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
    bytes: AtomicU64,
}

/// A layer's experts.
#[derive(Debug)]
pub(super) struct CachedLayer {
    matrices: Vec<CachedMatrix>,
    slots: Mutex<LruSlots>,
}

/// A stack of matrices, one a slot, and their source in the file.
#[derive(Debug)]
pub(super) struct CachedMatrix {
    pub(super) parts: Vec<MatrixPart>,
    /// Rows of an expert.
    pub(super) n: u64,
    pub(super) rows: FileRows,
}

/// The expert in each slot.
#[derive(Debug)]
struct LruSlots {
    held: Vec<Option<u32>>,
    /// The time of each slot's last use.
    used: Vec<u64>,
    now: u64,
}

impl LruSlots {
    fn new(slots: u32) -> Self {
        Self { held: vec![None; slots as usize], used: vec![0; slots as usize], now: 0 }
    }

    fn slot_of(&self, expert: u32) -> Option<u32> {
        self.held.iter().position(|held| *held == Some(expert)).map(|slot| slot as u32)
    }

    /// Returns the distinct experts of `ids` in passes of at most as many as there are slots, cached ones first.
    fn passes(&self, ids: &[u32]) -> Vec<Vec<u32>> {
        let mut chosen: Vec<u32> = Vec::new();
        for id in ids {
            if !chosen.contains(id) {
                chosen.push(*id);
            }
        }
        chosen.sort_by_key(|expert| self.slot_of(*expert).is_none());
        chosen.chunks(self.held.len().max(1)).map(<[u32]>::to_vec).collect()
    }

    /// Marks `experts` as used. Returns the missing ones, each with the slot that it evicts: the least recently used that no
    /// expert of the pass has.
    fn touch(&mut self, experts: &[u32]) -> Vec<(u32, u32)> {
        self.now += 1;
        for slot in experts.iter().filter_map(|expert| self.slot_of(*expert)).collect::<Vec<_>>() {
            self.used[slot as usize] = self.now;
        }
        let mut missing = Vec::new();
        for expert in experts {
            if self.slot_of(*expert).is_some() {
                continue;
            }
            let free = (0..self.held.len()).filter(|slot| self.used[*slot] < self.now);
            let Some(slot) = free.min_by_key(|slot| self.used[*slot]) else { break };
            (self.held[slot], self.used[slot]) = (None, self.now);
            missing.push((*expert, slot as u32));
        }
        missing
    }

    fn filled(&mut self, expert: u32, slot: u32) {
        self.held[slot as usize] = Some(expert);
    }
}

impl ExpertCache {
    pub(super) fn new(slots: u32, layers: Vec<Vec<CachedMatrix>>) -> Self {
        let layer = |matrices| CachedLayer { matrices, slots: Mutex::new(LruSlots::new(slots)) };
        Self {
            slots,
            layers: layers.into_iter().map(layer).collect(),
            leased: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Returns the slots of a layer.
    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    /// Returns an upper bound of the passes for `assignments` to some of `experts`.
    pub(super) fn passes(&self, assignments: u32, experts: u32) -> u32 {
        assignments.min(experts).div_ceil(self.slots.max(1))
    }

    /// Returns the counters.
    pub(crate) fn stats(&self) -> ExpertCacheStats {
        let [hits, misses, bytes] = [&self.hits, &self.misses, &self.bytes].map(|count| count.load(Ordering::Relaxed));
        ExpertCacheStats { slots: self.slots, hits, misses, bytes }
    }

    /// Leases it to an engine, unless another has it.
    pub(crate) fn lease(self: &Arc<Self>) -> Option<ExpertCacheLease> {
        let leased = self.leased.swap(true, Ordering::AcqRel);
        (!leased).then(|| ExpertCacheLease(Arc::clone(self)))
    }

    /// Loads an expert of a layer into a slot.
    async fn load(&self, device: &Device, layer: &CachedLayer, expert: u32, slot: u32) -> Result<(), ModelError> {
        for matrix in &layer.matrices {
            let (from, mut at) = (u64::from(expert) * matrix.n, u64::from(slot) * matrix.n);
            for part in &matrix.parts {
                if at < part.planes.rows() {
                    part.fill(device, &matrix.rows, from..from + matrix.n, at, |bytes| {
                        self.bytes.fetch_add(bytes, Ordering::Relaxed);
                    })
                    .await?;
                    break;
                }
                at -= part.planes.rows();
            }
        }
        lock(&layer.slots).filled(expert, slot);
        Ok(())
    }
}

/// The exclusive use of an expert cache by an engine.
#[derive(Debug)]
pub(crate) struct ExpertCacheLease(Arc<ExpertCache>);

impl Drop for ExpertCacheLease {
    fn drop(&mut self) {
        self.0.leased.store(false, Ordering::Release);
    }
}

/// The slots of assignments.
#[derive(Debug)]
pub(crate) struct ExpertSlots {
    /// `[assignments]`.
    pub(crate) slots: Buffer<u32>,
    ids: Arc<Readback>,
}

impl ExpertSlots {
    /// Allocates them for a number of assignments.
    pub(crate) async fn new(device: &Device, assignments: u64) -> Result<Self, GpuError> {
        let ids = Readback::new::<u32>(device, assignments, 1).await?;
        Ok(Self { slots: device.alloc("expert slots", assignments).await?, ids: Arc::new(ids) })
    }

    /// Returns the host's action before each pass over a layer's assignments, of which the experts are the first elements of
    /// `ids`. Those that are not among the stack's `experts` are left out.
    pub(super) fn loads(
        &self,
        cache: &Arc<ExpertCache>,
        layer: usize,
        ids: &Buffer<u32>,
        assignments: u32,
        experts: u32,
        passes: u32,
    ) -> impl Iterator<Item = LoadExperts> {
        let first = LoadExperts {
            cache: Arc::clone(cache),
            layer,
            pass: 0,
            ids: ids.cast(),
            slots: self.slots.cast(),
            assignments,
            experts,
            readback: Arc::clone(&self.ids),
            routed: Arc::default(),
        };
        (0..passes).map(move |pass| LoadExperts { pass: pass as usize, ..first.clone() })
    }
}

/// The host's action before a pass: loads the missing experts.
#[derive(Clone, Debug)]
pub(super) struct LoadExperts {
    cache: Arc<ExpertCache>,
    layer: usize,
    pass: usize,
    ids: Buffer<u32>,
    slots: Buffer<u32>,
    assignments: u32,
    experts: u32,
    readback: Arc<Readback>,
    /// The router's choice, read by the first pass.
    routed: Arc<Mutex<RoutedExperts>>,
}

#[derive(Debug, Default)]
struct RoutedExperts {
    ids: Vec<u32>,
    passes: Vec<Vec<u32>>,
}

impl LoadExperts {
    async fn load(&self, device: &Device) -> Result<(), ModelError> {
        let Some(layer) = self.cache.layers.get(self.layer) else { return Ok(()) };
        if self.pass == 0 {
            let ids = self.readback.read(device, &self.ids, self.assignments.into()).await?;
            let stacked: Vec<u32> = ids.iter().copied().filter(|id| *id < self.experts).collect();
            let passes = lock(&layer.slots).passes(&stacked);
            *lock(&self.routed) = RoutedExperts { ids, passes };
        }
        let experts = lock(&self.routed).passes.get(self.pass).cloned().unwrap_or_default();
        let missing = lock(&layer.slots).touch(&experts);
        self.cache.hits.fetch_add((experts.len() - missing.len()) as u64, Ordering::Relaxed);
        self.cache.misses.fetch_add(missing.len() as u64, Ordering::Relaxed);
        for (expert, _) in &missing {
            for matrix in &layer.matrices {
                let from = u64::from(*expert) * matrix.n;
                matrix.rows.prefetch(from..from + matrix.n);
            }
        }
        for (expert, slot) in missing {
            self.cache.load(device, layer, expert, slot).await?;
        }
        // An assignment of another pass gets an index beyond the slots.
        let places: Vec<_> = {
            let slots = lock(&layer.slots);
            experts.iter().map(|expert| (*expert, slots.slot_of(*expert).unwrap_or(self.cache.slots))).collect()
        };
        let place =
            |id: &u32| places.iter().find(|(expert, _)| expert == id).map_or(self.cache.slots, |(_, slot)| *slot);
        let slots: Vec<u32> = lock(&self.routed).ids.iter().map(place).collect();
        Ok(device.write_now(&self.slots, 0, &slots)?)
    }
}

impl HostAction for LoadExperts {
    fn run<'a>(&'a self, device: &'a Device) -> Acting<'a> {
        Box::pin(async move {
            self.load(device).await.map_err(|error| match error {
                ModelError::Gpu(error) => error,
                other => GpuError::Host(Arc::new(other)),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(slots: &mut LruSlots, experts: &[u32]) -> Vec<(u32, u32)> {
        let missing = slots.touch(experts);
        missing.iter().for_each(|(expert, slot)| slots.filled(*expert, *slot));
        missing
    }

    #[test]
    fn the_least_recently_used_slot_is_evicted() {
        let mut slots = LruSlots::new(3);
        assert_eq!(load(&mut slots, &[7, 8, 9]), [(7, 0), (8, 1), (9, 2)]);
        assert_eq!(load(&mut slots, &[7, 9]), []);
        assert_eq!(load(&mut slots, &[5, 7]), [(5, 1)]);
        assert_eq!(load(&mut slots, &[8]), [(8, 2)]);
        assert_eq!([5, 7, 8, 9].map(|expert| slots.slot_of(expert)), [Some(1), Some(0), Some(2), None]);
    }

    #[test]
    fn cached_experts_come_in_the_first_pass() {
        let mut slots = LruSlots::new(2);
        load(&mut slots, &[4, 3]);
        let passes = slots.passes(&[1, 2, 1, 3, 5, 2]);
        assert_eq!(passes, [vec![3, 1], vec![2, 5]]);
        assert_eq!(load(&mut slots, &passes[0]), [(1, 0)]);
        assert_eq!(load(&mut slots, &passes[1]).len(), 2);
    }

    #[test]
    fn an_expert_that_was_not_loaded_is_in_no_slot() {
        let mut slots = LruSlots::new(2);
        load(&mut slots, &[1, 2]);
        // The device is lost on the way.
        assert_eq!(slots.touch(&[3]), [(3, 0)]);
        assert_eq!([1, 2, 3].map(|expert| slots.slot_of(expert)), [None, Some(1), None]);
        assert_eq!(load(&mut slots, &[3]), [(3, 1)]);
    }
}
