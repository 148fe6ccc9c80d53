//! The selection of kernels as a table: known devices × models × passes, without a GPU.
//!
//! `UPDATE_SELECTION=1 cargo test --test it selection::` renews tests/it/selection.txt.

use std::{fmt::Write, path::PathBuf};

use ferrum_wgpu::{
    Config, Precision,
    low_level::{
        kernels::attn::CHUNK,
        model::{
            AttentionKind, DeviceProfile, DownProj, FeedForward, FileType, KernelSelection, MatmulKind, NormPlacement,
            PRESETS, PassKernels, PassShape, Phase, Preset,
        },
    },
};

/// The passes of the table: decode of one and of eight sequences in contexts of one and of four chunks, a prompt of 512.
const PASSES: [(&str, PassShape); 4] = [
    ("decode 1", PassShape { phase: Phase::Decode, rows: 1, chunks: 1, logit_rows: 1, drafts: false }),
    ("decode 1, long", PassShape { phase: Phase::Decode, rows: 1, chunks: 4, logit_rows: 1, drafts: false }),
    ("decode 8", PassShape { phase: Phase::Decode, rows: 8, chunks: 1, logit_rows: 8, drafts: false }),
    ("prefill 512", PassShape { phase: Phase::Prefill, rows: 512, chunks: 0, logit_rows: 1, drafts: false }),
];

fn matmul(kind: MatmulKind) -> String {
    match kind {
        MatmulKind::Gemv => "GEMV".to_owned(),
        MatmulKind::GemvBatched => format!("GEMV of {}", kind.tile_rows()),
        MatmulKind::Gemm(tile) => format!("GEMM of {}", tile.count()),
    }
}

fn pass(kernels: PassKernels, config: &Config) -> String {
    let norm = |placement| if placement == NormPlacement::InGemv { "in GEMV" } else { "separate" };
    let attention = match kernels.attention {
        AttentionKind::Attention => "one pass",
        AttentionKind::SplitKv => "split-KV",
        AttentionKind::FusedRope => "one pass with RoPE",
        AttentionKind::FusedRopeSplitKv => "split-KV with RoPE",
    };
    let mut text = format!("dense {}, head {}, attention {attention}", matmul(kernels.dense), matmul(kernels.head));
    let _ = write!(text, ", norms {} and {}", norm(kernels.attn_norm), norm(kernels.ffn_norm));
    if matches!(config.feed_forward, FeedForward::Experts { .. }) {
        let down = if kernels.down_proj == DownProj::Combined { "with the sum" } else { "separate" };
        let _ = write!(text, ", experts {}, down {down}", matmul(kernels.experts));
    }
    text
}

/// Rows of weights for each group of eight lanes, of the matrices of a token that differ most.
fn rows_per_group(kernels: &KernelSelection, config: &Config) -> String {
    let (inner, used) = match config.feed_forward {
        FeedForward::Dense { inner } => (inner, 1),
        FeedForward::Experts { inner, used, .. } => (inner, used),
    };
    let matrices = [
        ("q", config.q_len(), 1),
        ("v", config.kv_heads * config.head_dim, 1),
        ("o", config.hidden, 1),
        ("gate and up", 2 * inner, used),
        ("down", config.hidden, used),
        ("head", config.vocab, 1),
    ];
    let of = matrices.map(|(name, n, count)| format!("{name} {:?}", kernels.rows_per_group(n, count)));
    of.join(", ")
}

fn config(preset: &Preset) -> Config {
    Config::from_gguf(&preset.gguf(FileType::Q4KM).expect("a header")).expect("a shape")
}

fn table() -> String {
    let mut text = "Made by `UPDATE_SELECTION=1 cargo test --test it selection::`.\n".to_owned();
    for (name, device) in DeviceProfile::known() {
        let [exact, fast] = Precision::ALL.map(|precision| KernelSelection::select(&device, precision));
        let _ = writeln!(text, "\n## {name}\n\n{exact:?}");
        if fast != exact {
            let _ = writeln!(text, "fast: {:?} {:?}", fast.tile, fast.mma);
        }
        for preset in PRESETS.iter().filter(|preset| ["Qwen3-30B-A3B", "Llama-3.1-8B"].contains(&preset.name)) {
            let config = config(preset);
            let _ = writeln!(text, "\n{}, rows per group: {}", preset.name, rows_per_group(&exact, &config));
            for (name, shape) in PASSES {
                let _ = writeln!(text, "- {name}: {}", pass(exact.pass(&config, shape), &config));
            }
        }
    }
    text
}

#[test]
fn known_devices_have_the_kernels_of_the_table() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/selection.txt");
    let table = table();
    if std::env::var_os("UPDATE_SELECTION").is_some() {
        std::fs::write(&path, &table).expect("a file");
    }
    let expected = std::fs::read_to_string(&path).expect("tests/it/selection.txt");
    for (line, (found, expected)) in table.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {}", line + 1);
    }
    assert_eq!(table.lines().count(), expected.lines().count());
}

#[test]
fn a_selection_is_a_function_of_device_and_precision() {
    for (name, device) in DeviceProfile::known() {
        for precision in Precision::ALL {
            let kernels = KernelSelection::select(&device, precision);
            assert_eq!(kernels, KernelSelection::select(&device.clone(), precision), "{name}");
            // Rows decide how a matrix is multiplied, and not in which order of sums within a phase.
            let config = config(&PRESETS[0]);
            for rows in 1..200 {
                for phase in [Phase::Prefill, Phase::Decode] {
                    let shape = PassShape { phase, rows, chunks: rows / CHUNK, logit_rows: rows, drafts: false };
                    let pass = kernels.pass(&config, shape);
                    let by_tiles = |kind| matches!(kind, MatmulKind::Gemm(_));
                    let expected = phase == Phase::Prefill && !kernels.one_order();
                    assert_eq!([pass.dense, pass.experts].map(by_tiles), [expected; 2], "{name}");
                    assert!(!by_tiles(pass.head), "{name}");
                }
            }
        }
    }
}
