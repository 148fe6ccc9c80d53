//! Writes the tests' small models to a folder, for `tools/make_goldens.py` or for inspection.
//!
//! ```text
//! cargo run --example write_tiny_models -- DIR
//! ```

#[path = "../tests/it/common/tiny_model.rs"]
mod tiny_model;

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: write_tiny_models DIR".into());
    };
    std::fs::create_dir_all(&dir)?;
    for (name, model) in tiny_model::tiny_models() {
        let path = dir.join(name).with_extension("gguf");
        let bytes = model.to_bytes()?;
        std::fs::write(&path, &bytes)?;
        println!("{} {:.2} MB", path.display(), bytes.len() as f64 / 1e6);
    }
    Ok(())
}
