//! Orders of sums: what one row gives, bit for bit, whatever is computed with it and by which kernel of its order.

use crate::common::device::{gpu, normal, run, shared_gpu, upload};
use ferrum_wgpu::{
    Device, KvType,
    low_level::{
        gpu::{Buffer, Kernel, Recorder},
        kernels::{
            attn::{
                AttnTile, CHUNK, KvIndex, Reduction, Tiles,
                attention::{self, Attention},
                attention_reduce::{self, AttentionReduce},
                attention_split_kv::{self, AttentionSplitKv},
                partial_words,
            },
            elementwise::rms_norm::{self, RmsNorm},
            linear::{
                Epilogue, Indexing, Input, Matmul, Mma, RowsPerGroup, Split, TileType,
                gemm::{self, Gemm, TileRows},
                gemv::{self, Gemv, Variant},
                gemv_batched::{self, GemvBatched, TILE_ROWS},
            },
            moe::sort::{self, MoeSort},
        },
        quant::{Planes, Rng, WeightType, random_blocks},
    },
};

/// Rows times a matrix, or times those of experts 1 to 4 of 6.
struct Products<'a> {
    device: &'a Device,
    variant: Variant,
    epilogue: Epilogue,
    n: u32,
    k: u32,
    rows_per_input: u32,
    planes: Planes,
    w: Buffer<[u32; 4]>,
    inputs: Vec<f32>,
    ids: Vec<u32>,
}

/// The kernel that multiplies rows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Gemv(RowsPerGroup),
    Batched,
    Gemm(TileRows),
}

impl<'a> Products<'a> {
    const EXPERTS: u32 = 6;
    const LOCAL: u32 = 4;

    /// Returns at most `rows` rows of `n` outputs, of `cells` blocks or so.
    async fn new(
        device: &'a Device,
        (variant, epilogue): (Variant, Epilogue),
        (rows, n, cells): (u32, u32, u32),
        rng: &mut Rng,
    ) -> Self {
        let ty = variant.ty;
        let k = cells * (ty.block_len() as u32).max(4);
        let (local, rows_per_input) =
            if variant.indexing == Indexing::Expert { (Self::LOCAL, 1 + rng.below(2)) } else { (1, 1) };
        let weight_rows = local * epilogue.weight_rows(n);
        let planes = Planes::new(ty, u64::from(weight_rows), u64::from(k)).expect("whole blocks");
        let raw = random_blocks(ty, (weight_rows * k) as usize / ty.block_len(), 0.05, rng.next_u64());
        let mut words = vec![[0; 4]; planes.vec4s() as usize];
        for part in planes.pack(0, &raw) {
            words[part.start as usize..][..part.words.len()].copy_from_slice(&part.words);
        }
        let w = upload(device, &words).await;
        let inputs = normal(rng, (rows.div_ceil(rows_per_input) * k) as usize);
        // Most rows have one of two experts.
        let ids = (0..rows).map(|_| if rng.below(3) == 0 { rng.below(Self::EXPERTS + 1) } else { 2 + rng.below(2) });
        Self { device, variant, epilogue, n, k, rows_per_input, planes, w, inputs, ids: ids.collect() }
    }

    /// Returns the outputs of the first `rows` rows.
    async fn rows(&self, rows: u32, by: By) -> Vec<u32> {
        let Self { device, variant, epilogue, n, k, rows_per_input, ref planes, ref w, .. } = *self;
        let expert = variant.indexing == Indexing::Expert;
        let matmul = if expert {
            let local = Matmul::experts(planes, Self::LOCAL, rows, rows_per_input, epilogue);
            Matmul { experts: Self::EXPERTS, first_expert: 1, ..local }
        } else {
            Matmul::dense(planes, rows, epilogue)
        };
        let x = upload(device, &self.inputs[..(rows.div_ceil(rows_per_input) * k) as usize]).await.cast();
        let ids = upload(device, &self.ids[..rows as usize]).await;
        let y = upload(device, &vec![0.25; (rows * n) as usize]).await;
        let mut rec = Recorder::new();
        let tile_rows = match by {
            By::Gemv(rows_per_group) => {
                let params = gemv::Params { matmul, ..Default::default() };
                let binds = gemv::Binds { w, x: &x, norm: None, ids: expert.then_some(&ids), y: &y };
                rec.dispatch(Gemv, Variant { rows_per_group, ..variant }, params, binds).expect("no aliases");
                return run(device, rec, &y).await;
            }
            By::Batched => TILE_ROWS,
            By::Gemm(rows) => rows.count(),
        };
        let experts = matmul.experts;
        let count = if expert { sort::max_tiles(rows, experts, tile_rows) } else { rows.div_ceil(tile_rows) };
        let assignments = upload(device, &vec![0; rows as usize]).await;
        let tiles = upload(device, &vec![[0; 4]; count as usize]).await;
        if expert {
            let words = |count: u32| vec![0u32; count as usize];
            let (counts, offsets) = (upload(device, &words(experts)).await, upload(device, &words(experts + 1)).await);
            let grids = upload(device, &words(6)).await;
            let params =
                sort::Params { assignments: rows, experts, tile_rows, max_tiles: count, first_grid: 1, second_grid: 1 };
            let binds = sort::Binds {
                ids: &ids,
                counts: &counts,
                offsets: &offsets,
                sorted: &assignments,
                tiles: &tiles,
                grids: &grids,
            };
            rec.dispatch(MoeSort, (), params, binds).expect("no aliases");
        }
        let (assignments, tiles) = (expert.then_some(&assignments), expert.then_some(&tiles));
        match by {
            By::Batched => {
                let params = gemv_batched::Params { matmul, tiles: count, x_offset: 0 };
                let binds = gemv_batched::Binds { w, x: &x, assignments, tiles, y: &y };
                rec.dispatch(GemvBatched, batched(variant), params, binds).expect("no aliases");
            }
            By::Gemm(tile_rows) => {
                let variant = in_tiles(variant, TileType::F32, tile_rows);
                let binds = gemm::Binds { w, x: &x, assignments, tiles, y: &y };
                rec.dispatch(Gemm, variant, gemm::Params { matmul, tiles: count }, binds).expect("no aliases");
            }
            By::Gemv(_) => {}
        }
        run(device, rec, &y).await
    }
}

/// Returns the batched variant of a product.
fn batched(v: Variant) -> gemv_batched::Variant {
    gemv_batched::Variant { ty: v.ty, indexing: v.indexing, split: v.split }
}

/// Returns the GEMM variant of a product.
fn in_tiles(v: Variant, tile: TileType, tile_rows: TileRows) -> gemm::Variant {
    gemm::Variant { ty: v.ty, indexing: v.indexing, tile, mma: Mma::Fma, tile_rows }
}

/// Returns the splits that a device supports.
fn splits(device: &Device) -> &'static [Split] {
    if device.caps().software_subgroup_8 { &[Split::K, Split::Rows] } else { &[Split::K] }
}

/// Returns variants of each type and split, and epilogues. The types have rows of a matrix and rows of experts in turn: how a
/// type is decoded and which rows are multiplied have no code in common.
fn variants(splits: &[Split], types: &[WeightType], epilogues: &[Epilogue]) -> Vec<(Variant, Epilogue)> {
    let mut all = Vec::new();
    for (i, split) in splits.iter().enumerate() {
        for (j, ty) in types.iter().enumerate() {
            let indexing = Indexing::ALL[(i + j) % Indexing::ALL.len()];
            let (ty, split) = (*ty, *split);
            let variant = Variant { ty, indexing, split, rows_per_group: RowsPerGroup::Four, input: Input::Plain };
            all.extend(epilogues.iter().map(|epilogue| (variant, *epilogue)));
        }
    }
    all
}

/// Compares rows one by one with a batch of them, alone and with others.
async fn compare_batches(device: &Device, seed: u64, rounds: u32) {
    let mut rng = Rng::new(seed);
    for (v, epilogue) in variants(splits(device), &WeightType::ALL, &Epilogue::ALL) {
        assert_eq!(Gemv::reduction_order(v), GemvBatched::reduction_order(batched(v)));
        let [f32, f16] =
            [TileType::F32, TileType::F16].map(|tile| Gemm::reduction_order(in_tiles(v, tile, TileRows::ThirtyTwo)));
        assert!(f32 != Gemv::reduction_order(v) && f16 != Gemv::reduction_order(v) && f32 != f16);
        for round in 0..rounds {
            // The first round has more than one block for each lane.
            let wide = if round == 0 { 9 * 32 / (v.ty.block_len() as u32).clamp(4, 32) } else { 1 };
            let (rows, n) = (1 + rng.below(2 * TILE_ROWS), 1 + rng.below(70));
            let products = Products::new(device, (v, epilogue), (rows, n, wide + rng.below(3)), &mut rng).await;
            let one_by_one = products.rows(rows, By::Gemv(RowsPerGroup::Four)).await;
            assert!(one_by_one.iter().all(|bits| f32::from_bits(*bits).is_finite()));
            let what = format!("{v:?}, {epilogue:?}, {rows} rows of {n}x{}", products.k);
            if v.split == Split::K {
                // Experts have whole rows.
                let quarter = (v.indexing == Indexing::Dense).then_some(RowsPerGroup::Quarter);
                for group in quarter.into_iter().chain([RowsPerGroup::One]) {
                    assert_eq!(products.rows(rows, By::Gemv(group)).await, one_by_one, "{group:?} at a time: {what}");
                }
            }
            assert_eq!(products.rows(rows, By::Batched).await, one_by_one, "at once: {what}");
            let fewer = 1 + rng.below(rows);
            let some = &one_by_one[..(fewer * n) as usize];
            assert_eq!(products.rows(fewer, By::Gemv(RowsPerGroup::Four)).await, some, "the first {fewer} of {what}");
            assert_eq!(products.rows(fewer, By::Batched).await, some, "the first {fewer} of {what}, at once");
        }
    }
}

#[test]
fn batches_have_the_bits_of_single_rows() {
    pollster::block_on(async { compare_batches(&shared_gpu(), 1, 2).await });
}

#[test]
fn long_rows_have_the_bits_of_every_group() {
    pollster::block_on(async {
        let device = shared_gpu();
        // 136 blocks of 32: more than 32 lanes keep at once.
        for (ty, cells) in
            [(WeightType::Q4K, 17), (WeightType::Q6K, 17), (WeightType::Q8_0, 136), (WeightType::F32, 1088)]
        {
            let (indexing, split, input) = (Indexing::Dense, Split::K, Input::Plain);
            let variant = Variant { ty, indexing, split, rows_per_group: RowsPerGroup::Four, input };
            let products = Products::new(&device, (variant, Epilogue::Gate), (2, 5, cells), &mut Rng::new(8)).await;
            let four = products.rows(2, By::Gemv(RowsPerGroup::Four)).await;
            for group in [RowsPerGroup::Quarter, RowsPerGroup::One] {
                assert_eq!(products.rows(2, By::Gemv(group)).await, four, "{ty}, {group:?}");
            }
        }
    });
}

#[test]
fn another_order_is_seen() {
    pollster::block_on(async {
        let device = gpu().await;
        device.edit_shaders("linear/gemv_batched", "row & 7u][lane][column", "row & 7u][lane ^ 3u][column");
        let (ty, indexing, split) = (WeightType::Q4K, Indexing::Dense, Split::K);
        let variant = Variant { ty, indexing, split, rows_per_group: RowsPerGroup::Four, input: Input::Plain };
        let products = Products::new(&device, (variant, Epilogue::Store), (8, 40, 8), &mut Rng::new(7)).await;
        let one_by_one = products.rows(8, By::Gemv(RowsPerGroup::Four)).await;
        assert_ne!(products.rows(8, By::Batched).await, one_by_one);
    });
}

#[test]
fn cpu_kernels_of_batches_have_the_bits_of_single_rows() {
    pollster::block_on(compare_batches(&Device::cpu(), 2, 1));
}

#[test]
fn rows_of_tiles_do_not_depend_on_their_number() {
    pollster::block_on(async {
        for device in [shared_gpu(), Device::cpu()] {
            let mut rng = Rng::new(3);
            let types = [WeightType::F16, WeightType::Q4K, WeightType::Q6K, WeightType::Q8_0];
            for (v, epilogue) in variants(&[Split::K], &types, &[Epilogue::Store, Epilogue::Gate]) {
                let n = 40;
                let cells = if v.ty.block_len() == 1 { 77 } else { 3 };
                let products = Products::new(&device, (v, epilogue), (96, n, cells), &mut rng).await;
                let all = products.rows(96, By::Gemm(TileRows::ThirtyTwo)).await;
                for (rows, tile_rows) in [1, 2, 31, 32, 33]
                    .map(|rows| (rows, TileRows::ThirtyTwo))
                    .into_iter()
                    .chain([1, 33, 63, 64, 65, 96].map(|rows| (rows, TileRows::SixtyFour)))
                {
                    let some = products.rows(rows, By::Gemm(tile_rows)).await;
                    assert_eq!(some, all[..(rows * n) as usize], "{v:?}, {epilogue:?}, {rows} rows, {tile_rows:?}");
                }
            }
        }
    });
}

/// Attention of some rows to one cache, in a single pass or split over chunks.
struct Attended<'a> {
    device: &'a Device,
    variant: attention::Variant,
    kv: Buffer<[u32; 4]>,
    table: Buffer<u32>,
    index: KvIndex,
}

impl<'a> Attended<'a> {
    const HEADS: u32 = 2;
    const BLOCK: u32 = 16;

    /// Makes a cache of one sequence whose `capacity` is a multiple of a block.
    async fn new(device: &'a Device, variant: attention::Variant, capacity: u32, rng: &mut Rng) -> Self {
        let pairs = (2 * capacity * variant.head_dim / 2) as usize;
        let words: Vec<u32> = match variant.kv {
            KvType::F32 => normal(rng, 2 * pairs).into_iter().map(f32::to_bits).collect(),
            // Halves of 0.5 to 2.
            KvType::F16 => (0..pairs).map(|_| (rng.next_u64() as u32 & 0x87ff_87ff) | 0x3800_3800).collect(),
            // Any codes, and scales of 1/128 to 1/32.
            KvType::Q8_0 => {
                let (scales, words) = (variant.head_dim.div_ceil(32), variant.kv.head_words(variant.head_dim));
                let word = |i: u32, bits: u32| if i < scales { (bits & 0x00ff_ffff) | 0x3c00_0000 } else { bits };
                (0..2 * capacity)
                    .flat_map(|_| (0..words).map(|i| word(i, rng.next_u64() as u32)).collect::<Vec<_>>())
                    .collect()
            }
        };
        // The pool's blocks are the sequence's, from the last on.
        let blocks = capacity / Self::BLOCK;
        let table: Vec<u32> = (0..blocks).rev().collect();
        let index = KvIndex { kv_heads: 1, capacity, sequences: 1, max_blocks: blocks, block: Self::BLOCK, blocks };
        Self { device, variant, kv: upload(device, &words).await.cast(), table: upload(device, &table).await, index }
    }

    /// The queries of `rows` rows, of one or of several rows to a tile.
    fn tile(&self, rows: u32, one_sequence: bool) -> AttnTile {
        let tiles = Tiles::new(Self::HEADS, one_sequence);
        AttnTile { scale: 0.25, ..AttnTile::new(rows, Self::HEADS, 1, self.variant.head_dim, tiles) }
    }

    async fn positions(&self, contexts: &[u32]) -> Buffer<u32> {
        let words: Vec<u32> = contexts.iter().flat_map(|context| [context - 1, 0]).collect();
        upload(self.device, &words).await
    }

    async fn single_pass(&self, q: &[f32], contexts: &[u32]) -> Vec<u32> {
        let (q, positions) = (upload(self.device, q).await.cast(), self.positions(contexts).await);
        let y = upload(self.device, &vec![f32::NAN; 4 * q.len() as usize]).await;
        let params = attention::Params { tile: self.tile(contexts.len() as u32, true), index: self.index };
        let mut rec = Recorder::new();
        let binds = attention::Binds {
            q: &q,
            kv: &self.kv,
            positions: &positions,
            table: &self.table,
            sinks: None,
            gate: None,
            y: &y.cast(),
        };
        rec.dispatch(Attention, self.variant, params, binds).expect("no aliases");
        run(self.device, rec, &y).await
    }

    async fn by_chunks(&self, q: &[f32], contexts: &[u32], chunks: u32) -> Vec<u32> {
        let rows = contexts.len() as u32;
        let (q, positions) = (upload(self.device, q).await.cast(), self.positions(contexts).await);
        let y = upload(self.device, &vec![f32::NAN; 4 * q.len() as usize]).await;
        let head_dim = self.variant.head_dim;
        let partials = vec![f32::NAN; (rows * Self::HEADS * chunks * partial_words(head_dim)) as usize];
        let partials = upload(self.device, &partials).await.cast();
        let tile = self.tile(rows, chunks > 3);
        let params = attention_split_kv::Params { tile, index: self.index, chunks };
        let mut rec = Recorder::new();
        let (kv, table) = (&self.kv, &self.table);
        let binds = attention_split_kv::Binds { q: &q, kv, positions: &positions, table, partials: &partials };
        rec.dispatch(AttentionSplitKv, self.variant, params, binds).expect("no aliases");
        let (heads, capacity) = (Self::HEADS, self.index.capacity);
        let params = attention_reduce::Params { rows, heads, head_dim, chunks, capacity, window: 0 };
        let binds = attention_reduce::Binds {
            partials: &partials,
            positions: &positions,
            sinks: None,
            gate: None,
            y: &y.cast(),
        };
        rec.dispatch(AttentionReduce, attention_reduce::Variant { sinks: false, gated: false }, params, binds)
            .expect("no aliases");
        run(self.device, rec, &y).await
    }
}

fn reductions(device: &Device) -> &'static [Reduction] {
    if device.caps().software_subgroup_8 {
        &[Reduction::SharedMemory, Reduction::Subgroup]
    } else {
        &[Reduction::SharedMemory]
    }
}

fn attentions(device: &Device) -> Vec<attention::Variant> {
    let kvs = if device.caps().pack_f16 { &KvType::ALL[..] } else { &[KvType::F32] };
    let mut all = Vec::new();
    for reduction in reductions(device).iter().copied() {
        for kv in kvs.iter().copied() {
            all.extend([16, 80, 128].map(|head_dim| attention::Variant {
                head_dim,
                kv,
                reduction,
                sinks: false,
                gated: false,
            }));
        }
    }
    // Heads that are too large for attention from projections, in tiles of two and of eight.
    all.push(attention::Variant {
        head_dim: 256,
        kv: kvs[0],
        reduction: Reduction::SharedMemory,
        sinks: false,
        gated: false,
    });
    all
}

#[test]
fn reduced_chunks_have_the_bits_of_a_single_pass() {
    pollster::block_on(async {
        compare_attention(&shared_gpu(), 1, 5).await;
        compare_attention(&Device::cpu(), 19, 19).await;
    });
}

/// Compares contexts of one chunk, `of_small` apart for the smallest heads and `of_others` for others, and some of two and three.
async fn compare_attention(device: &Device, of_small: usize, of_others: usize) {
    let mut rng = Rng::new(4);
    for v in attentions(device) {
        let step = if v.head_dim == 16 { of_small } else { of_others };
        let attended = Attended::new(device, v, 3 * CHUNK, &mut rng).await;
        let contexts: Vec<u32> = (1..=CHUNK).step_by(step).chain((CHUNK..=3 * CHUNK).step_by(37 * step)).collect();
        let q = normal(&mut rng, (contexts.len() as u32 * Attended::HEADS * v.head_dim) as usize);
        let single = attended.single_pass(&q, &contexts).await;
        assert!(single.iter().all(|bits| f32::from_bits(*bits).is_finite()));
        // Room for more chunks makes no difference.
        for chunks in [3, 4] {
            let reduced = attended.by_chunks(&q, &contexts, chunks).await;
            let differs = single.iter().zip(&reduced).position(|(single, reduced)| single != reduced);
            let row = differs.map(|at| at as u32 / (Attended::HEADS * v.head_dim));
            assert_eq!(row, None, "{v:?}: the row that differs first");
        }
    }
}

#[test]
fn chunks_do_not_depend_on_the_batch() {
    pollster::block_on(async {
        let device = shared_gpu();
        let mut rng = Rng::new(5);
        let contexts = [40, 513, 1, 256, 600, 257, 512, 300];
        for v in attentions(&device) {
            let attended = Attended::new(&device, v, 608, &mut rng).await;
            let row = (Attended::HEADS * v.head_dim) as usize;
            let q = normal(&mut rng, contexts.len() * row);
            let together = attended.by_chunks(&q, &contexts, 3).await;
            for (i, context) in contexts.iter().enumerate() {
                let alone = attended.by_chunks(&q[i * row..][..row], &[*context], 3 + i as u32 % 2).await;
                assert_eq!(alone, together[i * row..][..row], "{v:?}, context {context}");
            }
        }
    });
}

#[test]
fn normed_rows_do_not_depend_on_their_number() {
    pollster::block_on(async {
        let mut rng = Rng::new(6);
        for device in [shared_gpu(), Device::cpu()] {
            for n in [5, 300, 2048] {
                let rows = 33;
                let x = upload(&device, &normal(&mut rng, (rows * n) as usize)).await;
                let w = upload(&device, &normal(&mut rng, n as usize)).await;
                let normed = async |first_row: u32, rows: u32| {
                    let y = upload(&device, &vec![f32::NAN; (rows * n) as usize]).await;
                    let mut rec = Recorder::new();
                    let picks: Vec<[u32; 2]> = (first_row..first_row + rows).map(|row| [row, 0]).collect();
                    let picks = upload(&device, &picks).await;
                    let params = rms_norm::Params { rows, n, x_rows: 33, y_stride: n, y_offset: 0, eps: 1e-6 };
                    let binds = rms_norm::Binds { x: &x, w: &w, picks: Some(&picks), y: &y };
                    rec.dispatch(RmsNorm, rms_norm::Rows::Picked, params, binds).expect("no aliases");
                    run(&device, rec, &y).await
                };
                let all = normed(0, rows).await;
                for (first, count) in [(0, 1), (0, 2), (0, 32), (32, 1), (7, 20)] {
                    let some = &all[(first * n) as usize..][..(count * n) as usize];
                    assert_eq!(normed(first, count).await, some, "{count} rows of {n} from {first} on");
                }
            }
        }
    });
}

#[test]
fn orders_differ_where_sums_do() {
    let v = |reduction| attention::Variant { head_dim: 128, kv: KvType::F16, reduction, sinks: false, gated: false };
    let (memory, subgroup) = (v(Reduction::SharedMemory), v(Reduction::Subgroup));
    assert_ne!(Attention::reduction_order(memory), Attention::reduction_order(subgroup));
    assert_eq!(Attention::reduction_order(memory), AttentionSplitKv::reduction_order(memory));
    assert_eq!(Attention::reduction_order(subgroup), AttentionSplitKv::reduction_order(subgroup));
}
