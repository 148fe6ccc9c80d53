//! Writes the tests' small models to a folder, for `tools/make_goldens.py` or for inspection: those of the common formats, one
//! of each architecture, one of the other formats, one of each architecture with gated delta nets, or those of the shapes of
//! `make_model.py`'s hybrids.
//!
//! ```text
//! cargo run --example write_tiny_models -- DIR [architectures|formats|hybrids|presets]
//! ```

#[path = "../tests/it/common/tiny_model.rs"]
mod tiny_model;

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: write_tiny_models DIR [architectures|formats|hybrids|presets]".into());
    };
    std::fs::create_dir_all(&dir)?;
    let models = match std::env::args().nth(2).as_deref() {
        Some("architectures") => tiny_model::architecture_models(),
        Some("formats") => tiny_model::format_models(),
        Some("presets") => tiny_model::preset_models(),
        Some("hybrids") => tiny_model::hybrid_models(),
        _ => tiny_model::tiny_models(),
    };
    for (name, model) in models {
        let path = dir.join(name).with_extension("gguf");
        let bytes = model.to_bytes()?;
        std::fs::write(&path, &bytes)?;
        println!("{} {:.2} MB", path.display(), bytes.len() as f64 / 1e6);
    }
    Ok(())
}
