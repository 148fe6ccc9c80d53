//! The WebAssembly module of the npm package: models, replies and hashes for its TypeScript (`web/ts`).
//!
//! Requests and responses are JSON texts of OpenAI's API. Errors are JavaScript errors with a `code` (see `error`).

mod conformance;
mod error;
mod fit;
mod model;
mod reply;
mod source;

use sha2::Digest;
use wasm_bindgen::prelude::*;

pub use conformance::conformance;
pub use fit::fits;
pub use model::{LoadedModel, ModelDevice};
pub use reply::Reply;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(text: &str);
}

#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| console_error(&info.to_string())));
}

/// Returns the bytes of the module's linear memory.
#[wasm_bindgen(js_name = memoryBytes)]
pub fn memory_bytes() -> f64 {
    (core::arch::wasm32::memory_size(0) as f64) * 65536.0
}

/// A streaming SHA-256, which WebCrypto does not have.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Sha256(sha2::Sha256);

#[wasm_bindgen]
impl Sha256 {
    /// Returns the hash of nothing.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash in hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
