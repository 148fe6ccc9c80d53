//! Every kernel's cases against their f64 references: on the default adapter, on the same with WebGPU's default limits, and by
//! the CPU kernels; and docs/KERNELS.md against the kernels.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crate::{
    common::kernels::covered_kernels,
    markdown,
    stacks::{STACKS, Stack, Test},
};
use ferrum_wgpu::{
    Adapter, Device,
    low_level::{
        conformance::{Feature, KernelEntry, Outcome, Report, Suite, VariantEntry, catalog},
        gpu::Caps,
        quant::WeightType,
    },
};

/// The largest number of variants that the suite may run on a device: 500 for eleven formats, 15 for each other one, and 25
/// for attention with sinks and RoPE of Qwen2's kind, 20 for gated delta nets and attention with gates, 40 for heads of 256 and
/// split-KV attention of passes with draft tokens.
const MAX_COVERED: usize = 500 + 15 * (WeightType::ALL.len() - 11) + 85;

/// Runs a suite of the kernels for which `wanted` returns true.
async fn check(device: &Device, suite: &Suite, wanted: impl Fn(&str) -> bool) {
    let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
    let mut before = Instant::now();
    let seen = |report: &Report| {
        let now = Instant::now();
        *seconds.entry(report.kernel).or_default() += now.duration_since(before).as_secs_f64();
        before = now;
    };
    let reports = suite.run(device, seen).await.expect("the suite runs");
    assert!(!reports.is_empty());
    assert_eq!(reports.len(), suite.len());
    let mut kernels: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
    for report in &reports {
        let (variants, cases, worst) = kernels.entry(report.kernel).or_default();
        (*variants, *cases, *worst) = (*variants + 1, *cases + report.outcomes.len(), worst.max(report.worst()));
    }
    println!("{}", device.fingerprint());
    for (kernel, (variants, cases, worst)) in &kernels {
        println!(
            "  {kernel:28} {variants:4} variants {cases:4} cases, worst {:5.1} % of its bound, {:6.1} s",
            100.0 * worst,
            seconds[kernel]
        );
    }
    let failed: Vec<_> = reports.iter().filter(|report| !report.passed()).collect();
    assert!(failed.is_empty(), "{} of {} variants fail: {failed:#?}", failed.len(), reports.len());
    let mut covered = covered_kernels(device.caps());
    covered.retain(|kernel| wanted(kernel));
    assert_eq!(kernels.into_keys().collect::<BTreeSet<_>>(), covered);
}

async fn adapter() -> Adapter {
    Adapter::find(None).await.expect("an adapter: `make setup` installs a software one")
}

/// Checks the kernels for which `wanted` returns true on a device that no other test uses: a software driver compiles a
/// device's kernels in one thread.
fn check_the_device(wanted: impl Fn(&str) -> bool) {
    pollster::block_on(async {
        let device = crate::common::device::gpu().await;
        let mut suite = Suite::new(device.caps(), "");
        suite.retain(|kernel, _| wanted(kernel));
        check(&device, &suite, wanted).await;
    });
}

fn is_attention(kernel: &str) -> bool {
    kernel.starts_with("attn/")
}

#[test]
fn the_device_meets_the_references_of_attention() {
    check_the_device(is_attention);
}

#[test]
fn the_device_meets_the_references_of_the_other_kernels() {
    check_the_device(|kernel| !is_attention(kernel));
}

/// On a device with default limits, wgpu rejects what needs more. Of the variants that the tests above run, each kernel's
/// first is run again.
#[test]
fn a_device_of_default_limits_meets_the_references() {
    pollster::block_on(async {
        let adapter = adapter().await;
        let device = Device::masked(&adapter, &Caps::portable()).await.expect("a device");
        let mut tested = BTreeSet::new();
        Suite::new(&adapter.caps(), "").retain(|kernel, variant| tested.insert((kernel, variant.to_owned())));
        let mut suite = Suite::new(device.caps(), "");
        let mut first = BTreeSet::new();
        suite.retain(|kernel, variant| first.insert(kernel) || !tested.contains(&(kernel, variant.to_owned())));
        check(&device, &suite, |_| true).await;
    });
}

#[test]
fn the_suite_is_small_and_covers_all_formats() {
    for stack in STACKS.iter().filter(|stack| stack.test == Test::Runs) {
        let covered = Suite::new(&stack.caps(), "").len();
        assert!(covered <= MAX_COVERED, "{}: {covered} variants", stack.name);
    }
    let kernels = catalog();
    // Every covered variant is supported.
    let covered: usize = kernels.iter().map(|kernel| kernel.covered().count()).sum();
    assert_eq!(covered, Suite::new(&Feature::caps(&Feature::ALL), "").len());
    let covers = |name: &str, parts: &[&str]| {
        let kernel = kernels.iter().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("no kernel {name}"));
        kernel.covered().any(|variant| parts.iter().all(|part| variant.variant.contains(part)))
    };
    for ty in WeightType::ALL {
        let format = format!("ty: {ty:?}");
        for (kernel, rows) in [
            ("linear/gemv", "indexing: Dense"),
            ("linear/gemv", "indexing: Expert"),
            ("linear/gemm", "indexing: Dense"),
            ("linear/gemm", "indexing: Expert"),
            ("linear/embed", ""),
        ] {
            assert!(covers(kernel, &[&format, rows]), "{kernel} with {format}, {rows} is not covered");
        }
    }
}

/// Faulty kernels: a kernel, a text of its WGSL, the replacement, and where the suite must find the error.
const MUTATIONS: [(&str, &str, &str, &str); 59] = [
    ("elementwise/gated_activation", "if i < p.n", "if i < p.n + 8u", "y was written 0 words behind its end"),
    ("moe/add_expert_bias", "min(ids[tile.y], p.experts - 1u)", "min(ids[tile.y] + 1u, p.experts - 1u)", "y["),
    ("attn/attention_reduce", "const SINK_WEIGHT = 1.0", "const SINK_WEIGHT = 0.0", "y["),
    ("moe/router_topk", "= p.scale * gate", "= 1.001 * p.scale * gate", "weights["),
    ("attn/query_temperature", "log(1.0 + f32(periods))", "log(f32(periods))", "q["),
    ("elementwise/add_rows", "+= p.factor", "+= 1.001 * p.factor", "y["),
    ("elementwise/rms_norm", "+ p.eps", "", "y["),
    ("elementwise/fused_add_rms_norm", "residual[at] = value", "residual[at] = x[at]", "residual["),
    // A tail, a scale, a wrong plane, a lost bit.
    ("linear/gemv", "block < p.k_blocks; block += LANES", "block + LANES < p.k_blocks; block += LANES", "y["),
    // 32 lanes a row: the second row of a workgroup, a lane's later blocks.
    ("linear/gemv", "let row = invocation / ROW_LANES;", "let row = 0u;", "y["),
    ("linear/gemv", "i < count; i += LANES", "i < LANES; i += LANES", "y["),
    // A column of the wrong tile, a total without its last lane.
    ("linear/gemv_batched", "b_first, 2u, batch", "b_first, 3u, batch", "y["),
    ("linear/gemv_batched", "lane < LANES; lane", "lane + 1u < LANES; lane", "y["),
    ("linear/embed", "select(first, last, i >= 2u)", "select(first, last, i >= 1u)", "y["),
    ("linear/embed", "w[super_blocks * 12u + super_block]", "w[super_blocks * 12u]", "y["),
    ("linear/embed", "select(subnormal, normal, magnitude >= 0x400u)", "normal", "y["),
    // A swapped index, removed barriers, a missing clamp.
    ("linear/gemm", "inputs[i][group][1]", "inputs[i][group][0]", "y["),
    ("linear/gemm", "workgroupBarrier();", "", "y["),
    ("linear/gemm", "min(tiles[tile].z, p.rows)", "tiles[tile].z - 1u", "y["),
    ("linear/embed", "min(embed_id(tile.y), p.n - 1u)", "embed_id(tile.y)", "y["),
    // A chunk's sums not rescaled, a key seen too early, a group of keys left out, another query's weight.
    ("attn/attention", "before * single_rescale[half][query] +", "before +", "y["),
    ("attn/attention", "< attn_end[half])", "<= attn_end[half])", "y["),
    ("attn/attention", "group = 1u; group < ATTN_GROUPS", "group = 2u; group < ATTN_GROUPS", "y["),
    ("attn/attention", "exp_sum.lo * single_lo.rescale +", "exp_sum.lo +", "y["),
    ("attn/attention", "< visible.end)", "<= visible.end)", "y["),
    ("attn/attention", "attn_accumulate_eight(a1, lo.y, v, w)", "attn_accumulate_eight(a1, lo.x, v, w)", "y["),
    ("attn/attention_reduce", "stats.y * rescale.y", "stats.y", "y["),
    ("attn/rope_kv_append", "- rope_no_contract(pair.y * angle.y)", "+ rope_no_contract(pair.y * angle.y)", "q["),
    // A key rotated as a query, a value replaced by the key, elements of another query, the last eighth of a head left out, nothing
    // stored.
    ("attn/rope_attention", "1u + value, slot, 2u", "0u, slot, 2u", "kv["),
    ("attn/rope_attention", "rope_stored = 1u;", "", "kv["),
    ("attn/rope_attention", "attn_dots(i, half, 1u, k, l)", "attn_dots(i, half, 0u, k, l)", "y["),
    ("attn/rope_attention_split_kv", "i < HEAD_VEC4S; i += 8u", "i + 1u < HEAD_VEC4S; i += 8u", "partials["),
    ("attn/rope_attention_split_kv", "chunk == last", "false", "kv["),
    ("attn/kv_cache_append", "position - entry * p.block", "position", "kv"),
    // Q8_0: another run's scale, a scale of other codes, no rounding.
    ("attn/attention", "let group = i >> 2u;", "let group = 0u;", "y["),
    ("attn/kv_cache_append", "largest / 127.0", "largest / 126.0", "kv["),
    ("attn/rope_kv_append", "round(kv_vec4", "trunc(kv_vec4", "kv["),
    // Ties, a bucket's border, a slot left out.
    ("moe/router_topk", "theirs == mine && other < e", "theirs == mine && other > e", "ids["),
    ("moe/sort", "min(start + tile_rows, mine)", "start + tile_rows", "tiles["),
    ("moe/combine", "expert < p.top_k", "expert + 1u < p.top_k", "residual["),
    ("sample/argmax", "let start = tile.x * ITEMS;", "let start = tile.x * ITEMS + 1u;", "best["),
    // Another row's sequence, penalties where there are none, another token's bit of a mask, a token that is none.
    ("sample/draw", "picks[p.first + row].y", "picks[row].y", "draws["),
    ("sample/penalties", "(flags & 1u) != 0u", "true", "logits["),
    ("sample/penalties", "(i % 32u)", "(i % 31u)", "logits["),
    ("sample/argmax", "candidate.x == 0u", "false", "ids["),
    ("attn/copy_blocks", "kv[blocks.x", "kv[blocks.y", "kv["),
    // A gate of another element; a window that is too old, of a wrong slot, not stored; an unscaled query; another head's gate; an
    // old state, another key head's, a lost lane, a state that is not stored; a gate left out.
    ("attn/attention_reduce", "-gate[at]", "-gate[at ^ 1u]", "y["),
    ("attn/attention", "-gate[at]", "-gate[at ^ 1u]", "y["),
    ("attn/rope_attention", "-gate[at]", "-gate[at ^ 1u]", "y["),
    ("delta_net/causal_conv", "(3u + (row - first) - back)", "(2u + (row - first) - back)", "y["),
    ("delta_net/causal_conv", "min(slot, p.slots - 1u) *", "", "y["),
    ("delta_net/causal_conv", "1.0 / sqrt(f32(p.head_dim))", "1.0", "y["),
    ("delta_net/causal_conv", "gates[p.value_heads + head]", "gates[p.value_heads]", "y["),
    ("delta_net/conv_window", "= inputs.y;", "= inputs.z;", "windows["),
    ("delta_net/gated_delta_rule", "head / p.repeat % p.key_heads", "head % p.key_heads", "["),
    ("delta_net/gated_delta_rule", "decay * products.zw + key_query * d", "decay * products.zw", "y["),
    ("delta_net/gated_delta_rule", "decay * column.d + k.d * d", "decay * column.d", "["),
    ("delta_net/gated_rms_norm", "silu(gate.w)", "silu(gate.z)", "y["),
    // No WGSL at all.
    ("moe/combine", "sum += weights", "sum += no_such_weights", "moe/expert_sum.wgsl:"),
];

/// Returns the pattern of the variants of which the first are run with a fault in place of `from`.
fn some_of<'a>(kernel: &'a str, from: &str) -> &'a str {
    let has_32_lanes = include_str!("../../wgsl/linear/gemv_32_lanes.wgsl").contains(from);
    match kernel {
        "linear/gemv" if has_32_lanes => "ty: Q4K, indexing: Dense, split: K, rows_per_group: Quarter",
        "linear/gemv" | "linear/gemv_batched" | "linear/gemm" => "ty: Q4K, indexing: Expert",
        "attn/attention" | "attn/rope_attention" if from.contains("gate") => "gated: true",
        "attn/attention" | "attn/rope_attention" | "attn/rope_attention_split_kv" => "head_dim: 128",
        _ => kernel,
    }
}

/// The largest number of variants that are run with one fault.
const FAULTY_VARIANTS: usize = 2;

/// Runs the cases of a kernel after a replacement in its WGSL, on one after the other of the variants that it changes, until a
/// failure is at a place that contains `found`, and returns the failures.
async fn failures_of(adapter: &Adapter, kernel: &KernelEntry, from: &str, to: &str, found: &str) -> Vec<Outcome> {
    let device = Device::new(adapter).await.expect("a device");
    device.edit_shaders(kernel.name, from, to);
    // Variants with f16 would find the same again.
    let caps = Caps { f16: false, ..device.caps().clone() };
    let changed: BTreeSet<&str> =
        kernel.covered().filter(|v| v.shader.text.contains(from)).map(|v| v.variant.as_str()).collect();
    let (mut failures, mut tried) = (Vec::<Outcome>::new(), BTreeSet::new());
    while tried.len() < FAULTY_VARIANTS && !failures.iter().any(|failure| failure.at.contains(found)) {
        let before = tried.len();
        let mut suite = Suite::new(&caps, some_of(kernel.name, from));
        suite.retain(|name, variant| {
            let wanted = name == kernel.name && changed.contains(variant) && tried.len() == before;
            wanted && tried.insert(variant.to_owned())
        });
        if suite.is_empty() {
            break;
        }
        let reports = suite.run(&device, |_| ()).await.expect("the suite runs");
        failures.extend(reports.iter().flat_map(Report::failures).cloned());
    }
    failures
}

/// Checks that the text of each replacement is in the WGSL of a variant that is run, and returns the kernels by name.
fn check_replacements<'a>(
    replacements: impl Iterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<&'static str, KernelEntry> {
    let kernels: BTreeMap<_, _> = catalog().into_iter().map(|kernel| (kernel.name, kernel)).collect();
    for (kernel, from) in replacements {
        let pattern = some_of(kernel, from);
        let entry = kernels.get(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        let run = |variant: &&VariantEntry| kernel.contains(pattern) || variant.variant.contains(pattern);
        let found = entry.covered().filter(run).any(|variant| variant.shader.text.contains(from));
        assert!(found, "{from:?} is not in {kernel} ({pattern}) any more: adapt the replacement to the WGSL");
    }
    kernels
}

#[test]
fn faulty_kernels_fail() {
    let kernels = check_replacements(MUTATIONS.iter().map(|(kernel, from, ..)| (*kernel, *from)));
    let mut missed = Vec::new();
    pollster::block_on(async {
        let adapter = adapter().await;
        for (kernel, from, to, found) in MUTATIONS {
            let failures = failures_of(&adapter, &kernels[kernel], from, to, found).await;
            match failures.iter().find(|failure| failure.at.contains(found)) {
                Some(failure) => {
                    println!(
                        "{kernel}, {to:?} for {from:?}: {} failures, {}: {}",
                        failures.len(),
                        failure.case,
                        failure.at
                    )
                }
                None => {
                    let places: Vec<_> = failures.iter().map(|failure| &failure.at).take(4).collect();
                    missed.push(format!("{kernel}, {to:?} for {from:?}: {found} is not in {places:?}"));
                }
            }
        }
    });
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Clamps of ids that kernels read from buffers: a kernel, the clamp in its WGSL, and the id without it.
const CLAMPS: [(&str, &str, &str); 13] = [
    ("linear/embed", "min(positions[2u * row + 1u], p.sequences - 1u)", "positions[2u * row + 1u]"),
    ("elementwise/rms_norm", "min(picks[row].x, p.x_rows - 1u)", "picks[row].x"),
    // An expert that is not bound, or that there is not.
    ("linear/gemv", "row_expert(i) < p.local_experts", "true"),
    ("linear/gemv_moe_combine", "min(ids[first_assignment + i], p.experts - 1u)", "ids[first_assignment + i]"),
    // A tile of rows that there are not.
    ("linear/gemv_batched", "if first_row >= end", "if false"),
    ("moe/sort", "min(ids[first + i], p.experts - 1u)", "ids[first + i]"),
    ("attn/kv_cache_append", "min(positions[2u * row], p.capacity - 1u)", "positions[2u * row]"),
    ("attn/kv_cache_append", "min(positions[2u * row + 1u], p.sequences - 1u)", "positions[2u * row + 1u]"),
    ("attn/kv_cache_append", "max_blocks - 1u)], p.blocks - 1u)", "max_blocks - 1u)], 0xffffffffu)"),
    ("attn/copy_blocks", "min(copies[tile.y], vec2<u32>(p.blocks - 1u))", "copies[tile.y]"),
    ("sample/argmax", "min(picks[p.first + row].y, p.sequences - 1u)", "picks[p.first + row].y"),
    ("sample/draw", "min(picks[p.first + row].y, p.sequences - 1u)", "picks[p.first + row].y"),
    ("sample/penalties", "min(picks[p.first + row].y, p.sequences - 1u)", "picks[p.first + row].y"),
];

/// Cases have ids out of range: they fail without the clamps.
#[test]
fn ids_out_of_range_are_clamped_in_wgsl() {
    let kernels = check_replacements(CLAMPS.iter().map(|(kernel, clamp, _)| (*kernel, *clamp)));
    pollster::block_on(async {
        let adapter = adapter().await;
        for (kernel, clamp, id) in CLAMPS {
            let failures = failures_of(&adapter, &kernels[kernel], clamp, id, "").await.len();
            assert!(failures > 0, "{kernel} with {id:?} for {clamp:?} passes");
            println!("{kernel} with {id}: {failures} failures");
        }
    });
}

#[test]
fn f16_overflow_is_found() {
    pollster::block_on(async {
        let adapter = adapter().await;
        let device = Device::new(&adapter).await.expect("a device");
        if !device.caps().f16 {
            let lavapipe = adapter.name().contains("llvmpipe") && adapter.backend() == "vulkan";
            assert!(!lavapipe, "lavapipe should have f16");
            println!("skipped: {} has no f16", adapter.name());
            return;
        }
        device.edit_shaders("linear/gemm", "clamp(values, vec4<f32>(-65504.0), vec4<f32>(65504.0))", "values");
        let suite = Suite::new(device.caps(), "ty: Q4K, indexing: Dense, tile: F16");
        let reports = suite.run(&device, |_| ()).await.expect("the suite runs");
        assert!(!reports.is_empty() && reports.iter().all(|report| !report.passed()), "{reports:#?}");
    });
}

#[test]
fn lavapipe_has_the_features_of_its_stack() {
    pollster::block_on(async {
        let adapter = adapter().await;
        if adapter.name().contains("llvmpipe") && adapter.backend() == "vulkan" {
            let missing = Stack::named("lavapipe").map(|stack| stack.missing_in(&adapter.caps()));
            assert_eq!(missing, Some(Vec::<Feature>::new()));
        }
    });
}

#[test]
fn the_cpu_kernels_meet_the_references() {
    let device = Device::cpu();
    assert!(Stack::named("CPU kernels").is_some_and(|listed| listed.missing_in(device.caps()).is_empty()));
    pollster::block_on(check(&device, &Suite::new(device.caps(), ""), |_| true));
}

#[test]
fn the_documented_kernels_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/KERNELS.md");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == markdown::kernels(), "run: cargo run --example kernels_doc > docs/KERNELS.md");
}
