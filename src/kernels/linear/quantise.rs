//! Quantises activations to int8.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// Blocks of 32 activations as codes `q` and a scale `d`: `q[i] = round(x[i] / d)`, ties to even and clamped to ±127.
    /// `d` is the smallest power of two with `max|x| < 127.5·d`.
    ///
    /// Shapes: `x` is `blocks` times 32 f32, `y` as many int8, four in a word, `scales` `[blocks]` f32. `d` is clamped to
    /// 2⁻⁶⁹ … 2⁵⁷: smaller activations have codes of 0, larger ones are clamped. Bound: exact.
    pub struct Quantise("linear/quantise") for ();
    params {
        /// Blocks.
        blocks: u32,
    }
    binds {
        /// The activations.
        x: read [[f32; 4]],
        /// The blocks' scales.
        scales: write [f32],
        /// The codes.
        y: write [[u32; 4]],
    }
}

const WG: u32 = 64;

/// Activations of a block.
pub const BLOCK: u32 = 32;

/// Returns the scale and the codes of a block.
fn quantised(block: &[f32]) -> (f32, Vec<i8>) {
    let largest = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let exponent = ((largest.to_bits() + 0x1_0000) >> 23).clamp(64, 190) - 6;
    let scale = f32::from_bits(exponent << 23);
    // A saturating conversion.
    let code = |x: &f32| ((f64::from(*x) / f64::from(scale)).round_ties_even() as i8).max(-127);
    (scale, block.iter().map(code).collect())
}

impl Kernel for Quantise {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("linear/quantise.wgsl"), WG)
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.blocks.div_ceil(WG), y: 1 }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let x: &[f32] = bytemuck::cast_slice(host.x);
        let y: &mut [i8] = bytemuck::cast_slice_mut(host.y);
        let blocks = x.chunks_exact(BLOCK as usize).zip(y.chunks_exact_mut(BLOCK as usize)).zip(host.scales);
        for ((block, codes), scale) in blocks.take(p.blocks as usize) {
            let (d, q) = quantised(block);
            *scale = d;
            codes.copy_from_slice(&q);
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut scales: Vec<u32> = before.scales.iter().map(|scale| scale.to_bits()).collect();
        let mut y: Vec<u32> = before.y.as_flattened().to_vec();
        let x: &[f32] = bytemuck::cast_slice(before.x);
        for (b, block) in x.chunks_exact(BLOCK as usize).take(p.blocks as usize).enumerate() {
            // The first power of two that is large enough, and the nearest multiples of it.
            let largest = block.iter().fold(0.0f64, |largest, x| largest.max(f64::from(x.abs())));
            let exponent = (-69..57).find(|e| largest < 127.5 * 2f64.powi(*e)).unwrap_or(57);
            let d = 2f64.powi(exponent);
            *scales.get_mut(b)? = (d as f32).to_bits();
            for (i, four) in block.chunks_exact(4).enumerate() {
                let code = |x: f32| (f64::from(x) / d).clamp(-127.0, 127.0).round_ties_even() as i8;
                let bytes = [four[0], four[1], four[2], four[3]].map(|x| code(x) as u8);
                *y.get_mut(b * 8 + i)? = u32::from_le_bytes(bytes);
            }
        }
        Some(Expected { scales: Some(Expect::Exact(scales)), y: Some(Expect::Exact(y)), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        let mut rng = Rng::new(5);
        let mut hard = vec![[0.0f32; BLOCK as usize]; 6];
        // Zeros; ties between codes; the largest value that has its power's scale, and the next; tiny and huge values.
        for (i, x) in hard[1].iter_mut().enumerate() {
            *x = i as f32 - 15.5;
        }
        hard[1][31] = 100.0;
        hard[2][3] = -127.499;
        hard[3][4] = 127.5;
        hard[4] = [1e-30; BLOCK as usize];
        hard[5][7] = -1e30;
        let mut case = |name: &str, mut x: Vec<f32>, spare: usize| {
            let blocks = x.len() / BLOCK as usize;
            x.extend((0..spare * BLOCK as usize).map(|_| rng.normal()));
            let data = Data {
                x: bytemuck::pod_collect_to_vec(&x),
                scales: vec![f32::NAN; blocks + spare],
                y: vec![[7; 4]; 2 * (blocks + spare)],
            };
            Case::of_reference(name, (), Params { blocks: blocks as u32 }, data)
        };
        let mut rng = Rng::new(6);
        let mut normal = |count: u32| (0..count).map(|_| rng.normal()).collect::<Vec<f32>>();
        let (rows, one) = (normal(2 * 2048), normal(BLOCK));
        vec![
            case("two rows of Qwen3-30B-A3B's hidden size", rows, 0),
            case("one block, others behind it", one, 2),
            case("hard blocks", hard.as_flattened().to_vec(), 1),
        ]
    }
}
