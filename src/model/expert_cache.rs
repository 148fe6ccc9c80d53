//! Experts that are brought from the file when a router chooses them, where a device has not the memory for all.
//!
//! Each layer has slots for some of its experts. When its router has chosen, the host reads the choice, brings the experts
//! that are in no slot to those that were used longest ago, and tells the products in which slots the experts of their pairs
//! are. If a pass chooses more experts than there are slots, the products go over their pairs in rounds, first those whose
//! experts are there already; a pair whose round it is not has the number of a slot that no matrix has.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{ModelError, file_rows::FileRows, weights::MatrixPart};
use crate::gpu::{Acting, Buffer, Device, GpuError, HostAction, Readback, lock};

/// What was paged until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertCacheStats {
    /// Experts of each layer that the device holds at once.
    pub slots: u32,
    /// ExpertIds experts that were there: of a pass, each expert of a layer counts once.
    pub hits: u64,
    /// ExpertIds experts that were brought from the file.
    pub misses: u64,
    /// Bytes of the file that were brought for them.
    pub bytes: u64,
}

impl ExpertCacheStats {
    /// The share of chosen experts that were there; 1 before any was chosen.
    pub fn hit_rate(&self) -> f64 {
        let all = self.hits + self.misses;
        if all == 0 { 1.0 } else { self.hits as f64 / all as f64 }
    }

    /// What was paged since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            slots: self.slots,
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// The experts of a model that is paged.
#[derive(Debug)]
pub(crate) struct ExpertCache {
    slots: u32,
    layers: Vec<CachedLayer>,
    /// Whether an engine has it: what is in the slots changes between its dispatches.
    taken: AtomicBool,
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

/// A stack of slots, and where the file has what belongs there.
#[derive(Debug)]
pub(super) struct CachedMatrix {
    pub(super) parts: Vec<MatrixPart>,
    /// Rows of an expert.
    pub(super) n: u64,
    pub(super) rows: FileRows,
}

/// Which expert is in which slot.
#[derive(Debug)]
struct LruSlots {
    held: Vec<Option<u32>>,
    /// When each was used last.
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

    /// The experts of `ids` in rounds of no more than there are slots, those that are there in the first.
    fn rounds(&self, ids: &[u32]) -> Vec<Vec<u32>> {
        let mut chosen: Vec<u32> = Vec::new();
        for id in ids {
            if !chosen.contains(id) {
                chosen.push(*id);
            }
        }
        chosen.sort_by_key(|expert| self.slot_of(*expert).is_none());
        chosen.chunks(self.held.len().max(1)).map(<[u32]>::to_vec).collect()
    }

    /// Counts a round that uses `experts`, and gives those that have to be brought, each with a slot that is emptied for it:
    /// the one used longest ago by none of the round.
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
            taken: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Experts of each layer that the device holds at once.
    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    /// Rounds that products of `pairs` with some of `experts` need at most.
    pub(super) fn rounds(&self, pairs: u32, experts: u32) -> u32 {
        pairs.min(experts).div_ceil(self.slots.max(1))
    }

    /// What was paged until now.
    pub(crate) fn counts(&self) -> ExpertCacheStats {
        let [hits, misses, bytes] = [&self.hits, &self.misses, &self.bytes].map(|count| count.load(Ordering::Relaxed));
        ExpertCacheStats { slots: self.slots, hits, misses, bytes }
    }

    /// Has it for an engine, unless another has.
    pub(crate) fn take(self: &Arc<Self>) -> Option<ExpertCacheLease> {
        let taken = self.taken.swap(true, Ordering::AcqRel);
        (!taken).then(|| ExpertCacheLease(Arc::clone(self)))
    }

    /// Brings an expert of a layer to a slot.
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

/// That an engine has the experts of a paged model.
#[derive(Debug)]
pub(crate) struct ExpertCacheLease(Arc<ExpertCache>);

impl Drop for ExpertCacheLease {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

/// In which slots the experts of some pairs are.
#[derive(Debug)]
pub(crate) struct ExpertSlots {
    /// `[pairs]`.
    pub(crate) slots: Buffer<u32>,
    ids: Arc<Readback>,
}

impl ExpertSlots {
    /// For as many as `pairs`.
    pub(crate) async fn new(device: &Device, pairs: u64) -> Result<Self, GpuError> {
        let ids = Readback::new::<u32>(device, pairs, 1).await?;
        Ok(Self { slots: device.alloc("slots of experts", pairs).await?, ids: Arc::new(ids) })
    }

    /// What the host does before the products of a layer's pairs, round by round; their experts are the first `pairs` of
    /// `ids`.
    pub(super) fn rounds(
        &self,
        paged: &Arc<ExpertCache>,
        layer: usize,
        ids: &Buffer<u32>,
        pairs: u32,
        rounds: u32,
    ) -> impl Iterator<Item = LoadExperts> {
        let first = LoadExperts {
            paged: Arc::clone(paged),
            layer,
            round: 0,
            ids: ids.cast(),
            slots: self.slots.cast(),
            pairs,
            readback: Arc::clone(&self.ids),
            choice: Arc::default(),
        };
        (0..rounds).map(move |round| LoadExperts { round: round as usize, ..first.clone() })
    }
}

/// A round of bringing the experts that a router has chosen.
#[derive(Clone, Debug)]
pub(super) struct LoadExperts {
    paged: Arc<ExpertCache>,
    layer: usize,
    round: usize,
    ids: Buffer<u32>,
    slots: Buffer<u32>,
    pairs: u32,
    readback: Arc<Readback>,
    /// What the first round has read.
    choice: Arc<Mutex<RoutedExperts>>,
}

#[derive(Debug, Default)]
struct RoutedExperts {
    ids: Vec<u32>,
    rounds: Vec<Vec<u32>>,
}

impl LoadExperts {
    async fn page(&self, device: &Device) -> Result<(), ModelError> {
        let Some(layer) = self.paged.layers.get(self.layer) else { return Ok(()) };
        if self.round == 0 {
            let ids = self.readback.read(device, &self.ids, self.pairs.into()).await?;
            let rounds = lock(&layer.slots).rounds(&ids);
            *lock(&self.choice) = RoutedExperts { ids, rounds };
        }
        let experts = lock(&self.choice).rounds.get(self.round).cloned().unwrap_or_default();
        let missing = lock(&layer.slots).touch(&experts);
        self.paged.hits.fetch_add((experts.len() - missing.len()) as u64, Ordering::Relaxed);
        self.paged.misses.fetch_add(missing.len() as u64, Ordering::Relaxed);
        for (expert, _) in &missing {
            for matrix in &layer.matrices {
                let from = u64::from(*expert) * matrix.n;
                matrix.rows.want(from..from + matrix.n);
            }
        }
        for (expert, slot) in missing {
            self.paged.load(device, layer, expert, slot).await?;
        }
        // One that none of the round's is waits, or was served.
        let places: Vec<_> = {
            let slots = lock(&layer.slots);
            experts.iter().map(|expert| (*expert, slots.slot_of(*expert).unwrap_or(self.paged.slots))).collect()
        };
        let place =
            |id: &u32| places.iter().find(|(expert, _)| expert == id).map_or(self.paged.slots, |(_, slot)| *slot);
        let of_pairs: Vec<u32> = lock(&self.choice).ids.iter().map(place).collect();
        Ok(device.write_now(&self.slots, 0, &of_pairs)?)
    }
}

impl HostAction for LoadExperts {
    fn run<'a>(&'a self, device: &'a Device) -> Acting<'a> {
        Box::pin(async move {
            self.page(device).await.map_err(|error| match error {
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
    fn who_was_used_longest_ago_goes() {
        let mut slots = LruSlots::new(3);
        assert_eq!(load(&mut slots, &[7, 8, 9]), [(7, 0), (8, 1), (9, 2)]);
        assert_eq!(load(&mut slots, &[7, 9]), []);
        assert_eq!(load(&mut slots, &[5, 7]), [(5, 1)]);
        assert_eq!(load(&mut slots, &[8]), [(8, 2)]);
        assert_eq!([5, 7, 8, 9].map(|expert| slots.slot_of(expert)), [Some(1), Some(0), Some(2), None]);
    }

    #[test]
    fn those_that_are_there_come_in_the_first_round() {
        let mut slots = LruSlots::new(2);
        load(&mut slots, &[4, 3]);
        let rounds = slots.rounds(&[1, 2, 1, 3, 5, 2]);
        assert_eq!(rounds, [vec![3, 1], vec![2, 5]]);
        assert_eq!(load(&mut slots, &rounds[0]), [(1, 0)]);
        assert_eq!(load(&mut slots, &rounds[1]).len(), 2);
    }

    #[test]
    fn what_was_not_brought_is_nowhere() {
        let mut slots = LruSlots::new(2);
        load(&mut slots, &[1, 2]);
        // The device is lost on the way.
        assert_eq!(slots.touch(&[3]), [(3, 0)]);
        assert_eq!([1, 2, 3].map(|expert| slots.slot_of(expert)), [None, Some(1), None]);
        assert_eq!(load(&mut slots, &[3]), [(3, 1)]);
    }
}
