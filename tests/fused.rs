//! Kernels that do the work of two give the bits of the two, so that a row does not depend on how many come with it.

mod common;

use common::device::{gpu, normal, run, upload};
use ferrum_wgpu::{
    gpu::{Buffer, Device, Recorder},
    kernels::{
        elementwise::rms_norm::{self, RmsNorm},
        linear::{
            Epilogue, Group, Input, Lanes, Rows,
            gemv::{self, Gemv},
            gemv_sum::{self, GemvSum},
        },
        moe::weighted_sum::{self, WeightedSum},
    },
    quant::{Planes, Rng, WeightType, random_blocks},
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

    /// A product of `rows` rows with all of it.
    fn gemv(&self, rows: u32, n: u32, k: u32, experts: u32) -> gemv::Params {
        gemv::Params {
            rows,
            n,
            k,
            row_units: self.planes.row_units(),
            units: self.planes.units(),
            y_stride: n,
            y_offset: 0,
            share: 1,
            experts,
            first_expert: 0,
            held: experts,
            matrix_rows: self.planes.rows() as u32 / experts,
            x_offset: 0,
            ids_offset: 0,
            eps: 1e-6,
        }
    }
}

fn lanes(device: &Device) -> &'static [Lanes] {
    if device.caps().shuffles { &[Lanes::Units, Lanes::Rows] } else { &[Lanes::Units] }
}

/// Inner sizes of at least one block and of more than a workgroup's norm takes at once, of floats also without whole units.
fn inner_sizes(ty: WeightType) -> &'static [u32] {
    if ty.block_len() == 1 { &[36, 300, 2048] } else { &[256, 768, 2304] }
}

/// How many weight rows lanes may have at a time.
fn groups(lanes: Lanes) -> &'static [Group] {
    if lanes == Lanes::Units { &[Group::One, Group::Four] } else { &[Group::Four] }
}

#[test]
fn normed_products_have_the_bits_of_norms_and_products() {
    pollster::block_on(async {
        for device in [gpu().await, Device::cpu()] {
            let mut rng = Rng::new(1);
            for (lanes, ty) in lanes(&device).iter().flat_map(|lanes| WeightType::ALL.map(|ty| (*lanes, ty))) {
                for &k in inner_sizes(ty) {
                    let (rows, n) = (3, 21);
                    let weights = Weights::new(&device, ty, (n, k), &mut rng).await;
                    let x = upload(&device, &normal(&mut rng, (rows * k) as usize)).await;
                    let norm = upload(&device, &normal(&mut rng, k as usize)).await;
                    let (normed, y) =
                        (upload(&device, &vec![0.0; (rows * k) as usize]).await, output(&device, rows * n).await);
                    let variant = |group, input| gemv::Variant {
                        ty,
                        rows: Rows::Dense,
                        epilogue: Epilogue::Store,
                        lanes,
                        group,
                        input,
                    };
                    let params = || weights.gemv(rows, n, k, 1);
                    let w = &weights.words;

                    let mut two = Recorder::new();
                    let binds = rms_norm::Binds { x: &x, w: &norm, picks: None, y: &normed };
                    let of_norm = rms_norm::Params { rows, n: k, x_rows: rows, eps: 1e-6 };
                    two.dispatch(RmsNorm, rms_norm::Rows::All, of_norm, binds).expect("no aliases");
                    let binds = gemv::Binds { w, x: &normed.cast(), norm: None, ids: None, y: &y };
                    two.dispatch(Gemv, variant(Group::Four, Input::Plain), params(), binds).expect("no aliases");
                    let two = run(&device, two, &y).await;

                    for group in groups(lanes) {
                        let mut one = Recorder::new();
                        let y = output(&device, rows * n).await;
                        let binds = gemv::Binds { w, x: &x.cast(), norm: Some(&norm.cast()), ids: None, y: &y };
                        one.dispatch(Gemv, variant(*group, Input::Normed), params(), binds).expect("no aliases");
                        assert_eq!(run(&device, one, &y).await, two, "{ty} by {lanes:?}, {group:?}, {k} normed");
                    }
                }
            }
        }
    });
}

#[test]
fn summed_products_have_the_bits_of_products_and_sums() {
    pollster::block_on(async {
        for device in [gpu().await, Device::cpu()] {
            let mut rng = Rng::new(2);
            for (lanes, ty) in lanes(&device).iter().flat_map(|lanes| WeightType::ALL.map(|ty| (*lanes, ty))) {
                for (&k, share) in inner_sizes(ty).iter().zip([8, 1, 9]) {
                    let (rows, n, experts) = (2, 37, 5);
                    let pairs = rows * share;
                    let weights = Weights::new(&device, ty, (experts * n, k), &mut rng).await;
                    let x = upload(&device, &normal(&mut rng, (pairs * k) as usize)).await;
                    let ids: Vec<u32> = (0..pairs).map(|_| rng.below(experts + 1)).collect();
                    let ids = upload(&device, &ids).await;
                    let factors = upload(&device, &normal(&mut rng, pairs as usize)).await;
                    let start = normal(&mut rng, (rows * n) as usize);
                    let (w, x) = (&weights.words, &x.cast());

                    let mut two = Recorder::new();
                    let (outputs, residual) = (output(&device, pairs * n).await, upload(&device, &start).await);
                    let (epilogue, input) = (Epilogue::Store, Input::Plain);
                    let variant = gemv::Variant { ty, rows: Rows::Expert, epilogue, lanes, group: Group::Four, input };
                    let binds = gemv::Binds { w, x, norm: None, ids: Some(&ids), y: &outputs };
                    two.dispatch(Gemv, variant, weights.gemv(pairs, n, k, experts), binds).expect("no aliases");
                    let params = weighted_sum::Params { rows, n, k: share, eps: 0.0 };
                    let binds = weighted_sum::Binds {
                        weights: &factors,
                        outputs: &outputs,
                        w: None,
                        residual: &residual,
                        y: None,
                    };
                    two.dispatch(WeightedSum, weighted_sum::Variant::Add, params, binds).expect("no aliases");
                    let two = run(&device, two, &residual).await;

                    for group in groups(lanes).iter().copied() {
                        let mut one = Recorder::new();
                        let residual = upload(&device, &start).await;
                        let (row_units, units) = (weights.planes.row_units(), weights.planes.units());
                        let params = gemv_sum::Params { rows, n, k, row_units, units, share, experts, matrix_rows: n };
                        let binds = gemv_sum::Binds { w, x, ids: &ids, weights: &factors, y: &residual };
                        one.dispatch(GemvSum, gemv_sum::Variant { ty, lanes, group }, params, binds)
                            .expect("no aliases");
                        assert_eq!(
                            run(&device, one, &residual).await,
                            two,
                            "{ty} by {lanes:?}, {group:?}, {share} of {k}"
                        );
                    }
                }
            }
        }
    });
}

async fn output(device: &Device, len: u32) -> Buffer<f32> {
    upload(device, &vec![f32::NAN; len as usize]).await
}
