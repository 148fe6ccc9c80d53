//! A random generator without a state: what it gives depends on a counter and a key only.

use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    quant::Rng,
};

kernel! {
    /// `numbers[i] = philox(counters[i], keys[i])`: Philox 4x32-10 (Salmon et al. 2011).
    ///
    /// Shapes: `n` of each. Bound: exact.
    pub struct Philox("sample/philox") for ();
    params {
        /// Counters.
        n: u32,
    }
    binds {
        /// The counters.
        counters: read [[u32; 4]],
        /// The keys.
        keys: read [[u32; 2]],
        /// Four random words of each.
        numbers: write [[u32; 4]],
    }
}

const WG: u32 = 64;

impl Kernel for Philox {
    fn supported(_: &Caps) -> Vec<()> {
        vec![()]
    }

    fn source((): ()) -> Source {
        Source::new(wgsl!("sample/philox.wgsl"), WG).with(wgsl!("lib/philox.wgsl"))
    }

    fn grid((): (), p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(WG), y: 1 }
    }

    fn cpu((): (), p: &Params, host: Host<'_>) {
        let inputs = host.counters.iter().zip(host.keys);
        for (numbers, (counter, key)) in host.numbers.iter_mut().zip(inputs).take(p.n as usize) {
            *numbers = philox(*counter, *key);
        }
    }

    fn reference((): (), p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut numbers = before.numbers.to_vec();
        let inputs = before.counters.iter().zip(before.keys);
        for (numbers, (counter, key)) in numbers.iter_mut().zip(inputs).take(p.n as usize) {
            *numbers = philox(*counter, *key);
        }
        Some(Expected { numbers: Some(Expect::Exact(numbers.concat())), ..Default::default() })
    }

    fn cases((): ()) -> Vec<Case<Self>> {
        // The known answers that Random123 publishes.
        let known = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        let mut rng = Rng::new(10);
        let mut word = || rng.next_u64() as u32;
        let random: Vec<_> = (0..150)
            .map(|_| {
                let (counter, key) = ([(); 4].map(|()| word()), [(); 2].map(|()| word()));
                (counter, key, philox(counter, key))
            })
            .collect();
        [("known answers", known.to_vec()), ("random", random)]
            .into_iter()
            .map(|(name, all)| {
                // What lies behind the last must stay.
                let poison = [f32::NAN.to_bits(); 4];
                let mut expected: Vec<u32> = all.iter().flat_map(|(_, _, numbers)| *numbers).collect();
                expected.extend(poison);
                Case {
                    name: name.to_owned(),
                    params: Params { n: all.len() as u32 },
                    data: Data {
                        counters: all.iter().map(|(counter, ..)| *counter).collect(),
                        keys: all.iter().map(|(_, key, _)| *key).collect(),
                        numbers: vec![poison; all.len() + 1],
                    },
                    expected: Expected { numbers: Some(Expect::Exact(expected)), ..Default::default() },
                }
            })
            .collect()
    }
}

/// Four random words of a counter and a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut key) = (counter, key);
    for _ in 0..10 {
        let (a, b) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
        c = [(b >> 32) as u32 ^ c[1] ^ key[0], b as u32, (a >> 32) as u32 ^ c[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// Returns the two numbers of draw `counter` of `seed`, in [0, 1): that of the token, and that of XTC.
pub fn uniform(seed: u64, counter: u64) -> [f64; 2] {
    let words = |n: u64| [n as u32, (n >> 32) as u32];
    let [low, high] = words(counter);
    let [first, second, ..] = philox([low, high, 0, 0], words(seed));
    // 24 bits: what an f32 holds exactly.
    [first, second].map(|word| f64::from(word >> 8) / f64::from(1 << 24))
}
