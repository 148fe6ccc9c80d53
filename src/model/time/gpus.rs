//! The parameters of the model of time, with their sources.

/// A GPU, as far as the time of a dispatch depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    /// Its name in [`DeviceProfile::known`](crate::model::DeviceProfile::known).
    pub name: &'static str,
    /// Bandwidth of its memory in GB/s. Source: datasheet.
    pub bandwidth: f64,
    /// Schedulers: SIMDs of AMD, quarters of NVIDIA's multiprocessors and of Apple's cores, vector engines of Intel. Source:
    /// datasheet.
    pub schedulers: f64,
    /// Lanes that a scheduler's units have. Source: datasheet.
    pub lanes: f64,
    /// Clock in GHz. Source: the datasheet's game or boost clock; Apple publishes none, and 1.3 is the measured one.
    pub clock: f64,
    /// Invocations of a wave of 64 invocations or more. Source: the compilers' choice for GEMVs (docs/GPUS.md).
    pub wave: f64,
    /// Nanoseconds until a load from memory arrives. Assumed: 600 cycles of AMD and NVIDIA, 1,000 of Intel, 450 of Apple.
    pub latency: f64,
    /// Microseconds from the end of a dispatch to the start of the next one, which depends on it. Assumed: 2 of AMD and
    /// NVIDIA, 5 of Intel and Apple.
    pub dispatch: f64,
    /// The instructions of its kernels.
    pub code: &'static Code,
}

/// The vector instructions of kernels, as a GPU's compiler makes them: of a lane, for each weight that it multiplies with one row.
/// Sources: docs/GPUS.md.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// GEMV of Q4_K with four rows a group, and with one.
    pub q4k: [f64; 2],
    /// GEMV of Q6_K, likewise.
    pub q6k: [f64; 2],
    /// GEMV of floats, likewise.
    pub floats: [f64; 2],
    /// What a norm in the prologue adds, likewise.
    pub norm: [f64; 2],
    /// GEMV of int8 activations, of Q4_K and of Q6_K.
    pub int8: [f64; 2],
    /// Batched GEMV of Q4_K: for each weight, whatever the number of rows, and for each row.
    pub batched: [f64; 2],
    /// GEMM by fused multiply-adds, vector and workgroup memory instructions: of one multiply-add.
    pub gemm: f64,
    /// GEMM by cooperative matrices, with tiles of 32 rows and of 64: of one multiply-add. A matrix instruction counts as the 16
    /// vector instructions that RDNA3 could issue instead.
    pub matrices: [f64; 2],
    /// Attention: of one multiply-add.
    pub attention: f64,
    /// Gated delta rule: of a row of an invocation.
    pub delta_rule: f64,
    /// llama.cpp's GEMV: Q4_K, Q6_K, floats.
    pub llama_cpp: [f64; 3],
    /// Waves that a scheduler holds: of GEMV with four rows, with one row, of attention and batches, of other kernels.
    pub waves: [f64; 4],
    /// Cycles between two instructions of a wave that is alone. Assumed.
    pub alone: f64,
}

/// AMD's RDNA3 by ACO: wave64, which is two passes of 32 lanes. llama.cpp multiplies int8 there.
const NAVI31: Code = Code {
    q4k: [3.75, 4.8],
    q6k: [5.1, 5.5],
    floats: [1.5, 2.0],
    norm: [0.8, 3.2],
    int8: [2.1, 3.3],
    batched: [3.3, 1.2],
    gemm: 1.3,
    matrices: [0.8, 0.62],
    attention: 2.5,
    delta_rule: 313.0,
    llama_cpp: [4.1, 6.1, 2.0],
    waves: [9.0, 12.0, 7.0, 16.0],
    alone: 2.0,
};

/// NVIDIA's by ptxas for sm_86: one row of Q4_K and Q6_K before some instructions were saved, which NAK shows. Those of int8, of
/// batches and of llama.cpp are NAK's without robust access, which takes 6.0 and 7.5 for four rows a group.
const SM_86: Code = Code {
    q4k: [6.3, 8.0],
    q6k: [6.9, 8.7],
    floats: [1.5, 2.0],
    norm: [0.8, 3.2],
    int8: [3.3, 4.6],
    batched: [7.3, 1.4],
    gemm: 1.4,
    matrices: [0.8, 0.62],
    attention: 2.5,
    delta_rule: 320.0,
    llama_cpp: [9.2, 7.4, 2.0],
    waves: [7.0, 12.0, 4.0, 12.0],
    alone: 2.0,
};

/// Intel's Xe-HPG by brw: SIMD8. llama.cpp multiplies int8 there.
const XE_HPG: Code = Code {
    q4k: [5.3, 7.3],
    q6k: [6.8, 8.3],
    floats: [1.5, 2.0],
    norm: [0.8, 3.2],
    int8: [2.8, 4.2],
    batched: [6.7, 1.67],
    gemm: 1.6,
    matrices: [0.8, 0.62],
    attention: 4.0,
    delta_rule: 420.0,
    llama_cpp: [4.8, 7.75, 2.0],
    waves: [8.0, 8.0, 8.0, 8.0],
    alone: 2.0,
};

/// Apple's by Mesa's AGX compiler without robust access, and a twentieth for naga's checks, as in MSL.
const APPLE: Code = Code {
    q4k: [6.4, 8.5],
    q6k: [8.0, 9.4],
    floats: [1.5, 2.0],
    norm: [0.8, 3.2],
    int8: [6.1, 7.4],
    batched: [5.1, 1.45],
    gemm: 1.5,
    matrices: [1.5, 1.5],
    attention: 3.0,
    delta_rule: 420.0,
    llama_cpp: [10.0, 9.9, 2.0],
    waves: [5.5, 6.5, 4.0, 8.0],
    alone: 2.0,
};

impl Gpu {
    /// The GPUs whose parameters are known.
    pub const ALL: [Self; 7] = [
        Self {
            name: "RX 7900 XTX",
            bandwidth: 960.0,
            schedulers: 192.0,
            lanes: 32.0,
            clock: 2.4,
            wave: 64.0,
            latency: 250.0,
            dispatch: 2.0,
            code: &NAVI31,
        },
        Self {
            name: "RX 9070 XT",
            bandwidth: 640.0,
            schedulers: 128.0,
            lanes: 32.0,
            clock: 2.97,
            wave: 64.0,
            latency: 250.0,
            dispatch: 2.0,
            code: &NAVI31,
        },
        Self {
            name: "RTX 4090",
            bandwidth: 1008.0,
            schedulers: 512.0,
            lanes: 32.0,
            clock: 2.52,
            wave: 32.0,
            latency: 240.0,
            dispatch: 2.0,
            code: &SM_86,
        },
        Self {
            name: "RTX 3060",
            bandwidth: 360.0,
            schedulers: 112.0,
            lanes: 32.0,
            clock: 1.78,
            wave: 32.0,
            latency: 340.0,
            dispatch: 2.0,
            code: &SM_86,
        },
        Self {
            name: "Arc A770",
            bandwidth: 560.0,
            schedulers: 512.0,
            lanes: 8.0,
            clock: 2.1,
            wave: 8.0,
            latency: 480.0,
            dispatch: 5.0,
            code: &XE_HPG,
        },
        Self {
            name: "Apple M1 Max",
            bandwidth: 400.0,
            schedulers: 128.0,
            lanes: 32.0,
            clock: 1.3,
            wave: 32.0,
            latency: 350.0,
            dispatch: 5.0,
            code: &APPLE,
        },
        Self {
            name: "Apple M1",
            bandwidth: 68.0,
            schedulers: 32.0,
            lanes: 32.0,
            clock: 1.3,
            wave: 32.0,
            latency: 350.0,
            dispatch: 5.0,
            code: &APPLE,
        },
    ];

    /// Returns the parameters of a device of [`DeviceProfile::known`](crate::model::DeviceProfile::known).
    pub fn named(name: &str) -> Option<&'static Self> {
        const ALL: &[Gpu] = &Gpu::ALL;
        ALL.iter().find(|gpu| gpu.name == name)
    }
}
