//! Rules for the source tree: layers, no side channels, a body for every kernel.

use crate::common::kernels::kernel_names;
use ferrum_wgpu::low_level::quant::WeightType;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all files with the extension below a folder, with their text.
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

/// The modules of the crate, and the modules that each may use.
const LAYERS: [(&str, &[&str]); 18] = [
    ("quant", &[]),
    ("gguf", &["quant"]),
    ("text", &["gguf"]),
    ("gpu", &[]),
    ("kv", &[]),
    ("kernels", &["gpu", "quant"]),
    ("conformance", &["gpu", "kernels", "quant"]),
    ("model", &["gguf", "gpu", "kernels", "quant"]),
    // `quant` is for random numbers in tests.
    ("engine", &["gguf", "gpu", "kernels", "kv", "model", "quant"]),
    ("setters", &[]),
    ("names", &["engine", "kernels", "model", "text"]),
    ("chat", &["engine", "error", "gguf", "gpu", "kernels", "model", "text"]),
    ("check", &["conformance", "engine", "error", "gguf", "gpu", "model"]),
    ("grammar", &["engine", "text"]),
    ("api", &["engine", "error", "gguf", "grammar", "quant", "text"]),
    ("serve", &["api", "engine", "gguf", "gpu"]),
    ("error", &["engine", "gguf", "gpu", "model", "text"]),
    ("cli", &["conformance", "engine", "error", "gguf", "gpu", "kernels", "model", "text", "quant"]),
];

/// Returns the modules of this crate that `crate::` paths name.
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
fn every_wgsl_file_is_used_and_every_kernel_has_its_body() {
    let sources: String = files("src", "rs").into_iter().map(|(_, text)| text).collect();
    for (path, _) in files("wgsl", "wgsl") {
        let name = path.strip_prefix("wgsl").expect("below wgsl").to_str().expect("UTF-8").to_owned();
        assert!(sources.contains(&format!("wgsl!(\"{name}\")")), "{name} is used by no kernel");
    }
    let mut declared = BTreeSet::new();
    for (path, text) in files("src/kernels", "rs") {
        let stem = path.strip_prefix("src/kernels").expect("below kernels").with_extension("");
        if text.contains("\nkernel! {") {
            assert!(root().join("wgsl").join(&stem).with_extension("wgsl").exists(), "{} has no body", path.display());
            let name = format!("(\"{}\") for ", stem.to_str().expect("UTF-8"));
            assert!(text.contains(&name), "{} declares a kernel of another name", path.display());
            declared.insert(stem.to_str().expect("UTF-8").to_owned());
        }
    }
    let listed: BTreeSet<_> = kernel_names().into_iter().map(str::to_owned).collect();
    assert_eq!(declared, listed, "the kernels of src/kernels and those of `kernels::visit`");
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
            for line in text.lines() {
                let code = line.split("//").next().unwrap_or_default();
                let named = words(code).find(|word| names_format(word));
                assert_eq!(named, None, "{} names a format: {line}", path.display());
            }
        }
    }
}

/// Returns the identifiers of a line.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Returns whether an identifier begins with the name of a block format, such as `q4_k_scale` or `q8_0`.
fn names_format(word: &str) -> bool {
    let blocks = WeightType::ALL.iter().filter(|ty| ty.block_len() > 1);
    blocks.map(|ty| ty.to_string().to_lowercase()).any(|name| word.to_lowercase().starts_with(&name))
}

#[test]
fn names_of_formats_are_recognised() {
    for ty in WeightType::ALL {
        let name = ty.to_string().to_lowercase();
        // Scalars are types of WGSL too.
        assert_eq!(names_format(&format!("{name}_block")), !["f32", "f16", "bf16"].contains(&&*name), "{name}");
    }
    assert!(!names_format("q_header") && !names_format("queries") && !names_format("quant_block"));
}

/// Returns the files of `src/gpu` that a file imports by `use super::`, by the names that `mod.rs` exports.
fn imports(text: &str, exports: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    for (at, prefix) in code.match_indices("use super::") {
        let rest = &code[at + prefix.len()..];
        let list = rest.split(';').next().unwrap_or_default();
        found.extend(words(list).filter_map(|word| exports.get(word).cloned()));
    }
    found
}

#[test]
fn files_of_gpu_have_no_circles() {
    let files = files("src/gpu", "rs");
    let stem = |path: &Path| path.file_stem().and_then(|stem| stem.to_str()).expect("UTF-8").to_owned();
    let (_, root) = files.iter().find(|(path, _)| stem(path) == "mod").expect("mod.rs");
    let mut exports = BTreeMap::new();
    for (path, _) in &files {
        exports.insert(stem(path), stem(path));
    }
    for statement in root.split(';').filter_map(|text| text.split_once("use ").map(|(_, names)| names)) {
        let Some((file, names)) = statement.split_once("::") else { continue };
        exports.extend(words(names).map(|name| (name.to_owned(), file.to_owned())));
    }
    assert_eq!(exports.get("Device").map(String::as_str), Some("device"));
    let mut left: BTreeMap<String, BTreeSet<String>> = files
        .iter()
        .map(|(path, text)| (stem(path), imports(text, &exports)))
        .filter(|(file, _)| file != "mod")
        .collect();
    for (file, imports) in &mut left {
        imports.remove(file);
    }
    assert!(left["program"].contains("device") && left["context"].contains("watchdog"), "{left:?}");
    // Files are removed once all that they import are.
    loop {
        let before = left.len();
        let free: Vec<_> =
            left.iter().filter(|(_, imports)| imports.iter().all(|file| !left.contains_key(file))).collect();
        let free: Vec<String> = free.into_iter().map(|(file, _)| file.clone()).collect();
        left.retain(|file, _| !free.contains(file));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "these files depend on each other: {left:#?}");
}
