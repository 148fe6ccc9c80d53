//! Kernels that do the work of two give the bits of the two, so that a row does not depend on how many come with it.

use crate::common::device::{normal, run, shared_gpu, upload};
use ferrum_wgpu::{
    Device, KvType,
    low_level::{
        gpu::{Buffer, Recorder},
        kernels::{
            attn::{
                AttnTile, CHUNK, KvIndex, Reduction, RopeHead, RopeVariant,
                attention::{self, Attention},
                attention_split_kv::{self, AttentionSplitKv},
                partial_words,
                rope_attention::{self, RopeAttention},
                rope_attention_split_kv::{self, RopeAttentionSplitKv},
                rope_kv_append::{self, RopeKvAppend},
            },
            elementwise::rms_norm::{self, RmsNorm},
            linear::{
                Epilogue, Indexing, Input, Matmul, RowsPerGroup, Split,
                gemv::{self, Gemv},
                gemv_moe_combine::{self, GemvMoeCombine},
            },
            moe::combine::{self, MoeCombine},
        },
        quant::{Planes, Rng, WeightType, random_blocks},
    },
};

/// A matrix of `rows` by `k` random weights.
struct Weights {
    planes: Planes,
    words: Buffer<[u32; 4]>,
}

impl Weights {
    async fn new(device: &Device, ty: WeightType, (rows, k): (u32, u32), rng: &mut Rng) -> Self {
        let planes = Planes::new(ty, u64::from(rows), u64::from(k)).expect("whole blocks");
        let raw = random_blocks(ty, (rows * k) as usize / ty.block_len(), 0.05, rng.next_u64());
        let mut words = vec![[0; 4]; planes.vec4s() as usize];
        for part in planes.pack(0, &raw) {
            words[part.start as usize..][..part.words.len()].copy_from_slice(&part.words);
        }
        Self { planes, words: upload(device, &words).await }
    }

    /// Returns the product of `rows` rows with all of it.
    fn gemv(&self, rows: u32, experts: u32) -> gemv::Params {
        let matmul = Matmul::experts(&self.planes, experts, rows, 1, Epilogue::Store);
        gemv::Params { matmul, x_offset: 0, ids_offset: 0, eps: 1e-6 }
    }
}

/// Returns the splits that a device supports.
fn splits(device: &Device) -> &'static [Split] {
    if device.caps().software_subgroup_8 { &[Split::K, Split::Rows] } else { &[Split::K] }
}

/// Inner sizes of at least one block and of more than a workgroup's norm takes at once, of floats also without whole units.
fn inner_sizes(ty: WeightType) -> &'static [u32] {
    if ty.block_len() == 1 { &[36, 300, 2048] } else { &[256, 768, 2304] }
}

/// Returns how many weight rows a group of lanes may take.
fn groups(split: Split) -> &'static [RowsPerGroup] {
    if split == Split::K { &[RowsPerGroup::One, RowsPerGroup::Four] } else { &[RowsPerGroup::Four] }
}

#[test]
fn normed_products_have_the_bits_of_norms_and_products() {
    pollster::block_on(async {
        for device in [shared_gpu(), Device::cpu()] {
            let mut rng = Rng::new(1);
            for (split, ty) in splits(&device).iter().flat_map(|split| WeightType::ALL.map(|ty| (*split, ty))) {
                for &k in inner_sizes(ty) {
                    let (rows, n) = (3, 21);
                    let weights = Weights::new(&device, ty, (n, k), &mut rng).await;
                    let x = upload(&device, &normal(&mut rng, (rows * k) as usize)).await;
                    let norm = upload(&device, &normal(&mut rng, k as usize)).await;
                    let (normed, y) =
                        (upload(&device, &vec![0.0; (rows * k) as usize]).await, output(&device, rows * n).await);
                    let indexing = Indexing::Dense;
                    let variant = |rows_per_group, input| gemv::Variant { ty, indexing, split, rows_per_group, input };
                    let params = || weights.gemv(rows, 1);
                    let w = &weights.words;

                    let mut two = Recorder::new();
                    let binds = rms_norm::Binds { x: &x, w: &norm, picks: None, y: &normed };
                    let of_norm = rms_norm::Params { rows, n: k, x_rows: rows, y_stride: k, y_offset: 0, eps: 1e-6 };
                    two.dispatch(RmsNorm, rms_norm::Rows::All, of_norm, binds).expect("no aliases");
                    let binds = gemv::Binds { w, x: &normed.cast(), norm: None, ids: None, y: &y };
                    two.dispatch(Gemv, variant(RowsPerGroup::Four, Input::Plain), params(), binds).expect("no aliases");
                    let two = run(&device, two, &y).await;

                    let quarter = [RowsPerGroup::Quarter];
                    let quarter = &quarter[..usize::from(split == Split::K && ty == WeightType::Q4K)];
                    for group in groups(split).iter().chain(quarter) {
                        let mut one = Recorder::new();
                        let y = output(&device, rows * n).await;
                        let binds = gemv::Binds { w, x: &x.cast(), norm: Some(&norm.cast()), ids: None, y: &y };
                        one.dispatch(Gemv, variant(*group, Input::Normed), params(), binds).expect("no aliases");
                        assert_eq!(run(&device, one, &y).await, two, "{ty} by {split:?}, {group:?}, {k} normed");
                    }
                }
            }
        }
    });
}

#[test]
fn summed_products_have_the_bits_of_products_and_sums() {
    pollster::block_on(async {
        for device in [shared_gpu(), Device::cpu()] {
            let mut rng = Rng::new(2);
            for (split, ty) in splits(&device).iter().flat_map(|split| WeightType::ALL.map(|ty| (*split, ty))) {
                for (&k, top_k) in inner_sizes(ty).iter().zip([8, 1, 9]) {
                    let (rows, n, experts) = (2, 37, 5);
                    let assignments = rows * top_k;
                    let weights = Weights::new(&device, ty, (experts * n, k), &mut rng).await;
                    let x = upload(&device, &normal(&mut rng, (assignments * k) as usize)).await;
                    let ids: Vec<u32> = (0..assignments).map(|_| rng.below(experts + 1)).collect();
                    let ids = upload(&device, &ids).await;
                    let factors = upload(&device, &normal(&mut rng, assignments as usize)).await;
                    let start = normal(&mut rng, (rows * n) as usize);
                    let (w, x) = (&weights.words, &x.cast());

                    let mut two = Recorder::new();
                    let (outputs, residual) = (output(&device, assignments * n).await, upload(&device, &start).await);
                    let (indexing, input, rows_per_group) = (Indexing::Expert, Input::Plain, RowsPerGroup::Four);
                    let variant = gemv::Variant { ty, indexing, split, rows_per_group, input };
                    let binds = gemv::Binds { w, x, norm: None, ids: Some(&ids), y: &outputs };
                    two.dispatch(Gemv, variant, weights.gemv(assignments, experts), binds).expect("no aliases");
                    let params = combine::Params { rows, n, top_k, eps: 0.0 };
                    let binds =
                        combine::Binds { weights: &factors, outputs: &outputs, w: None, residual: &residual, y: None };
                    two.dispatch(MoeCombine, combine::Variant::Add, params, binds).expect("no aliases");
                    let two = run(&device, two, &residual).await;

                    let mut one = Recorder::new();
                    let residual = upload(&device, &start).await;
                    let (k_blocks, n_blocks) = (weights.planes.k_blocks(), weights.planes.blocks());
                    let params =
                        gemv_moe_combine::Params { rows, n, k, k_blocks, n_blocks, top_k, experts, weight_rows: n };
                    let binds = gemv_moe_combine::Binds { w, x, ids: &ids, weights: &factors, y: &residual };
                    let variant = gemv_moe_combine::Variant { ty, split };
                    one.dispatch(GemvMoeCombine, variant, params, binds).expect("no aliases");
                    assert_eq!(run(&device, one, &residual).await, two, "{ty} by {split:?}, {top_k} of {k}");
                }
            }
        }
    });
}

/// Projections of decoded tokens of two sequences, whose contexts have one chunk and two.
struct Heads {
    qkv: Buffer<f32>,
    norm: Buffer<f32>,
    rotations: Buffer<[f32; 2]>,
    positions: Buffer<u32>,
    table: Buffer<u32>,
    /// What the cache holds before.
    cache: Vec<[u32; 4]>,
}

const POSITIONS: [u32; 2] = [300, 7];
const CAPACITY: u32 = 512;
const BLOCK: u32 = 16;
const CHUNKS: u32 = CAPACITY / CHUNK;

impl Heads {
    async fn new(device: &Device, v: RopeVariant, (heads, kv_heads): (u32, u32), rng: &mut Rng) -> Self {
        let hd = v.attention.head_dim;
        let blocks = 2 * CAPACITY / BLOCK;
        let width = (heads + 2 * kv_heads) * hd;
        let angles: Vec<[f32; 2]> = (0..CAPACITY * hd / 2)
            .map(|i| {
                let (sin, cos) = (i as f32 * 0.37).sin_cos();
                [cos, sin]
            })
            .collect();
        // Halves, floats or codes: any words do that are no NaN.
        let words = 2 * kv_heads * BLOCK * blocks * v.attention.kv.head_words(hd) / 4;
        let cache = (0..words).map(|_| [(); 4].map(|()| 0x3800_3800 | (rng.next_u64() as u32 & 0x00ff_80ff))).collect();
        Self {
            qkv: upload(device, &normal(rng, 2 * width as usize)).await,
            norm: upload(device, &normal(rng, 2 * hd as usize)).await,
            rotations: upload(device, &angles).await,
            positions: upload(device, &[POSITIONS[0], 0, POSITIONS[1], 1]).await,
            // Blocks in turn of both.
            table: upload(device, &(0..2).flat_map(|s| (0..blocks / 2).map(move |b| 2 * b + s)).collect::<Vec<_>>())
                .await,
            cache,
        }
    }
}

/// What attention and the cache are after `record`, which is given the cache and what attention leaves.
async fn attended(
    device: &Device,
    heads: &Heads,
    len: u32,
    record: impl Fn(&mut Recorder, &Buffer<[u32; 4]>, &Buffer<[f32; 4]>),
) -> [Vec<u32>; 2] {
    let cache = upload(device, &heads.cache).await;
    let y = output(device, len).await;
    let mut rec = Recorder::new();
    record(&mut rec, &cache, &y.cast());
    let y = run(device, rec, &y).await;
    let kept = run(device, Recorder::new(), &cache.cast::<f32>()).await;
    [y, kept]
}

#[test]
fn fused_rope_attention_has_the_bits_of_rope_then_attention() {
    pollster::block_on(async {
        for device in [shared_gpu(), Device::cpu()] {
            let mut rng = Rng::new(3);
            let reductions: &[Reduction] = if device.caps().software_subgroup_8 {
                &[Reduction::SharedMemory, Reduction::Subgroup]
            } else {
                &[Reduction::SharedMemory]
            };
            // Sizes that are no power of two too: their norms divide by one.
            for (head_dim, norm, interleaved) in
                [(128, true, false), (64, false, true), (80, true, false), (112, true, false)]
            {
                // All formats of the first, and one of the others.
                let kept = |kv: &KvType| {
                    (head_dim == 128 || *kv == KvType::F32) && (*kv != KvType::F16 || device.caps().pack_f16)
                };
                let kvs = || KvType::ALL.into_iter().filter(kept);
                for (reduction, kv) in reductions.iter().flat_map(|reduction| kvs().map(|kv| (*reduction, kv))) {
                    let v = attention::Variant { head_dim, kv, reduction, sinks: false, gated: false };
                    let rope = RopeVariant { attention: v, norm, interleaved };
                    let (heads, kv_heads, rows) = (6, 2, 2);
                    let h = Heads::new(&device, rope, (heads, kv_heads), &mut rng).await;
                    let norms = norm.then_some(&h.norm);
                    let (table, positions, rotations) = (&h.table, &h.positions, &h.rotations);
                    let index = KvIndex {
                        kv_heads,
                        capacity: CAPACITY,
                        sequences: 2,
                        max_blocks: CAPACITY / BLOCK,
                        block: BLOCK,
                        blocks: 2 * CAPACITY / BLOCK,
                    };
                    let tile = AttnTile { scale: 0.1, ..AttnTile::of_kv_heads(rows, heads, kv_heads, head_dim) };
                    let (head, chunks) = (RopeHead { head_dim, eps: 1e-6 }, CHUNKS);
                    let q = output(&device, rows * heads * head_dim).await;
                    let append = |rec: &mut Recorder, kv_words: &Buffer<[u32; 4]>| {
                        let (qkv, kv_buffer) = (&h.qkv, kv_words);
                        let variant = rope_kv_append::Variant { norm, interleaved, kv };
                        let params = rope_kv_append::Params { rows, heads, index, head };
                        let binds = rope_kv_append::Binds {
                            qkv,
                            norm: norms,
                            rotations,
                            positions,
                            table,
                            q: &q,
                            kv: kv_buffer,
                        };
                        rec.dispatch(RopeKvAppend, variant, params, binds).expect("no aliases");
                    };
                    let (qkv, norms) = (&h.qkv.cast(), norms.map(Buffer::cast));
                    let norm = norms.as_ref();

                    let two = attended(&device, &h, rows * heads * head_dim, |rec, kv, y| {
                        append(rec, kv);
                        let binds = attention::Binds { q: &q.cast(), kv, positions, table, sinks: None, gate: None, y };
                        rec.dispatch(Attention, v, attention::Params { tile, index }, binds).expect("no aliases");
                    });
                    let one = attended(&device, &h, rows * heads * head_dim, |rec, kv, y| {
                        let params = rope_attention::Params { tile, index, head };
                        let binds = rope_attention::Binds { qkv, norm, rotations, positions, table, gate: None, kv, y };
                        rec.dispatch(RopeAttention, rope, params, binds).expect("no aliases");
                    });
                    assert!(one.await == two.await, "{rope:?}");

                    let len = rows * heads * CHUNKS * partial_words(head_dim);
                    let two = attended(&device, &h, len, |rec, kv, partials| {
                        append(rec, kv);
                        let params = attention_split_kv::Params { tile, index, chunks };
                        let binds = attention_split_kv::Binds { q: &q.cast(), kv, positions, table, partials };
                        rec.dispatch(AttentionSplitKv, v, params, binds).expect("no aliases");
                    });
                    let one = attended(&device, &h, len, |rec, kv, partials| {
                        let params = rope_attention_split_kv::Params { tile, index, head, chunks };
                        let binds =
                            rope_attention_split_kv::Binds { qkv, norm, rotations, positions, table, kv, partials };
                        rec.dispatch(RopeAttentionSplitKv, rope, params, binds).expect("no aliases");
                    });
                    assert!(one.await == two.await, "{rope:?} in chunks");
                }
            }
        }
    });
}

async fn output(device: &Device, len: u32) -> Buffer<f32> {
    upload(device, &vec![f32::NAN; len as usize]).await
}
