//! Files as JavaScript gives them: a length and a function that reads ranges.

use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::error;

#[wasm_bindgen]
extern "C" {
    /// A file: `{ length: number, read(offset: number, length: number): Promise<Uint8Array> }`.
    pub type Source;

    #[wasm_bindgen(method, getter)]
    pub fn length(this: &Source) -> f64;

    #[wasm_bindgen(method, catch)]
    fn read(this: &Source, offset: f64, length: f64) -> Result<Promise, JsValue>;
}

/// The bytes of a read.
const WINDOW: f64 = (16u32 << 20) as f64;

/// Reads a whole file.
pub async fn read_all(source: &Source, mut told: impl FnMut(f64)) -> Result<Vec<u8>, JsValue> {
    let length = source.length();
    let mut bytes = Vec::new();
    let room = || error::coded("memory", &format!("a file of {length} bytes does not fit into a page's memory"));
    bytes.try_reserve_exact(length as usize).map_err(|_| room())?;
    while (bytes.len() as f64) < length {
        let at = bytes.len();
        let wanted = WINDOW.min(length - at as f64);
        let piece: Uint8Array = JsFuture::from(source.read(at as f64, wanted)?).await?.dyn_into()?;
        if piece.length() == 0 {
            return Err(error::coded("storage", &format!("the file ends after {at} of {length} bytes")));
        }
        bytes.resize(at + piece.length() as usize, 0);
        piece.copy_to(&mut bytes[at..]);
        told(bytes.len() as f64);
    }
    Ok(bytes)
}
