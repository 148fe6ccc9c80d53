//! The defects of docs/UPSTREAM.md, each pinned to what happens today: a test that fails here means that one is mended,
//! and that what works around it can go.

use naga::valid::{Capabilities, ValidationFlags, Validator};

fn parse(text: &str) -> Result<naga::Module, String> {
    naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))
}

fn validate(module: &naga::Module) -> Result<naga::valid::ModuleInfo, String> {
    Validator::new(ValidationFlags::all(), Capabilities::all()).validate(module).map_err(|error| format!("{error:?}"))
}

/// The entry of docs/UPSTREAM.md has the same WGSL.
fn wgsl(entry: &str) -> String {
    let page = include_str!("../docs/UPSTREAM.md");
    let section = page.split("\n## ").find(|s| s.starts_with(entry)).unwrap_or_else(|| panic!("no entry {entry}"));
    let (_, code) = section.split_once("```wgsl\n").expect("a shader");
    code.split_once("```").expect("its end").0.to_owned()
}

#[test]
fn naga_refuses_enable_subgroups() {
    let error = parse(&wgsl("naga refuses `enable subgroups;`")).expect_err("mended");
    assert!(error.contains("subgroups"), "{error}");
}

#[test]
fn naga_accepts_a_barrier_in_divergent_flow() {
    let module = parse(&wgsl("naga accepts a barrier in divergent flow")).expect("WGSL");
    validate(&module).expect("mended");
}

#[test]
fn naga_takes_a_bitcast_to_halves_for_one_to_floats() {
    let error = parse(&wgsl("naga takes a bitcast to halves for one to floats")).expect_err("mended");
    assert!(error.contains("vec2<f32>"), "{error}");
}
