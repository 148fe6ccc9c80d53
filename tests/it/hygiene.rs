//! Rules that hold for the source tree: layers, no side channels, sizes, mirrored files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files with the ending below a folder, with their text.
fn files(below: &str, ending: &str) -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, ending: &str, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, ending, found);
            } else if path.extension().is_some_and(|e| e == ending) {
                let text = fs::read_to_string(&path).expect("text");
                found.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
            }
        }
    }
    let mut found = Vec::new();
    collect(&root().join(below), ending, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no {ending} files in {below}");
    found
}

/// Each module and the modules of the crate that it may use.
const LAYERS: [(&str, &[&str]); 13] = [
    ("quant", &[]),
    ("gguf", &["quant"]),
    ("text", &["gguf"]),
    ("gpu", &[]),
    ("kv", &[]),
    ("kernels", &["gpu", "quant"]),
    ("conformance", &["gpu", "kernels", "quant"]),
    ("model", &["conformance", "gguf", "gpu", "kernels", "quant"]),
    ("engine", &["gguf", "gpu", "kernels", "kv", "model", "quant", "text"]),
    ("names", &["kernels", "model", "text"]),
    ("chat", &["engine", "error", "gguf", "gpu", "kernels", "model", "text"]),
    ("error", &["engine", "gguf", "gpu", "model", "text"]),
    ("cli", &["conformance", "engine", "error", "gguf", "gpu", "kernels", "model", "text", "quant"]),
];

/// The modules of this crate that a line's `crate::` paths name.
fn used(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, prefix) in text.match_indices("crate::") {
        let rest = &text[at + prefix.len()..];
        let names = match rest.strip_prefix('{') {
            // use crate::{gguf::Gguf, gpu::{Buffer, Device}};
            Some(list) => {
                let (mut depth, mut start, mut names) = (0, true, Vec::new());
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            names.push(&list[i..]);
                            start = false;
                        }
                        _ => {}
                    }
                }
                names
            }
            None => vec![rest],
        };
        for name in names {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            found.insert(name[..end].to_owned());
        }
    }
    found
}

#[test]
fn layers_use_only_what_is_below_them() {
    let names: BTreeSet<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    for (path, text) in files("src", "rs") {
        let mut parts = path.iter().skip(1).map(|p| p.to_str().expect("UTF-8"));
        let module = parts.next().expect("a file").trim_end_matches(".rs");
        if module == "lib" || module == "main" {
            continue;
        }
        let (_, allowed) =
            LAYERS.iter().find(|(name, _)| *name == module).unwrap_or_else(|| panic!("{module} has no layer"));
        for other in used(&text) {
            let fine = other == module || allowed.contains(&other.as_str()) || !names.contains(other.as_str());
            assert!(fine, "{} uses crate::{other}", path.display());
        }
    }
}

#[test]
fn wgpu_is_called_in_one_module() {
    for (path, text) in files("src", "rs") {
        if !path.starts_with("src/gpu") && path != Path::new("src/lib.rs") {
            let named = text
                .lines()
                .filter(|l| !l.trim_start().starts_with("//"))
                .any(|l| l.contains("wgpu::") && !l.contains("ferrum_wgpu::"));
            assert!(!named, "{} names wgpu", path.display());
        }
    }
}

#[test]
fn library_prints_nothing_and_reads_no_environment() {
    const BANNED: [&str; 8] =
        ["println!", "print!", "eprint!", "dbg!", "std::env", "env::var", "process::exit", "static mut"];
    for (path, text) in files("src", "rs") {
        if path.starts_with("src/cli") || path == Path::new("src/main.rs") {
            continue;
        }
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for banned in BANNED {
                assert!(!line.contains(banned), "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn files_stay_small() {
    for (folder, ending, most) in [("src", "rs", 600), ("wgsl", "wgsl", 300)] {
        for (path, text) in files(folder, ending) {
            let lines = text.lines().count();
            assert!(lines <= most, "{} has {lines} lines", path.display());
        }
    }
}

/// Folders of `wgsl/` whose files are slot fillings or library fragments, and not kernels' bodies.
const FRAGMENTS: [&str; 5] = ["lib", "quant", "rows", "tiles", "kv"];

#[test]
fn every_wgsl_file_is_used_and_every_kernel_has_its_body() {
    let sources: String = files("src", "rs").into_iter().map(|(_, text)| text).collect();
    for (path, _) in files("wgsl", "wgsl") {
        let name = path.strip_prefix("wgsl").expect("below wgsl").to_str().expect("UTF-8").to_owned();
        assert!(sources.contains(&format!("wgsl!(\"{name}\")")), "{name} is used by no kernel");
        let folder = name.split('/').next().expect("a folder");
        let stem = name.trim_end_matches(".wgsl");
        let is_body = sources.contains(&format!("(\"{stem}\") for "));
        if !FRAGMENTS.contains(&folder) && is_body {
            assert!(root().join("src/kernels").join(format!("{stem}.rs")).exists(), "{name} has no kernel of its name");
        }
    }
    for (path, text) in files("src/kernels", "rs") {
        let stem = path.strip_prefix("src/kernels").expect("below kernels").with_extension("");
        if text.contains("\nkernel! {") {
            assert!(root().join("wgsl").join(&stem).with_extension("wgsl").exists(), "{} has no body", path.display());
        }
    }
}

#[test]
fn bodies_leave_directives_and_formats_to_the_composer() {
    for (path, text) in files("wgsl", "wgsl") {
        for line in text.lines() {
            let code = line.split("//").next().unwrap_or_default();
            let directive = ["enable ", "requires ", "diagnostic(", "#", "@group", "@binding", "num_workgroups"];
            assert!(!directive.iter().any(|d| code.contains(d)), "{}: {line}", path.display());
        }
        if !path.starts_with("wgsl/quant") {
            let code: String = text.lines().map(|l| l.split("//").next().unwrap_or_default()).collect();
            assert!(!code.contains("q4_") && !code.contains("q6_"), "{} names a format", path.display());
        }
    }
}
