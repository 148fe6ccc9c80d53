//! Writes the JavaScript glue of a WebAssembly module: `bindgen-wasm MODULE FOLDER`.
//!
//! A replacement for wasm-bindgen's command line, whose version must equal the library's: here both come from
//! Cargo.lock.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(module), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bindgen-wasm MODULE FOLDER".into());
    };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(module).typescript(true).web(true)?.generate(folder)?;
    Ok(())
}
