//! Files as JavaScript gives them: a length and a function that reads ranges.

use std::{borrow::Cow, cell::RefCell, io, ops::Range, rc::Rc};

use ferrum_wgpu::{
    Error, Gguf,
    gguf::{ByteSource, ReadFuture},
};
use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use crate::error;

#[wasm_bindgen]
extern "C" {
    /// A file: `{ name: string, length: number, read(offset: number, length: number): Promise<Uint8Array> }`.
    pub type Source;

    #[wasm_bindgen(method, getter)]
    fn name(this: &Source) -> String;

    #[wasm_bindgen(method, getter)]
    fn length(this: &Source) -> f64;

    #[wasm_bindgen(method, catch)]
    fn read(this: &Source, offset: f64, length: f64) -> Result<Promise, JsValue>;
}

/// What a source threw: it is thrown again as it was, in the place of the library's error.
pub type Thrown = Rc<RefCell<Option<JsValue>>>;

/// A file that JavaScript reads.
struct JsSource {
    source: Source,
    thrown: Thrown,
}

impl ByteSource for JsSource {
    fn name(&self) -> String {
        self.source.name()
    }

    fn byte_len(&self) -> u64 {
        self.source.length() as u64
    }

    fn read(&self, range: Range<u64>) -> ReadFuture<'_> {
        let started = self.source.read(range.start as f64, range.end.saturating_sub(range.start) as f64);
        Box::pin(async move {
            let read = async { JsFuture::from(started?).await?.dyn_into::<Uint8Array>() };
            read.await.map(|bytes| Cow::Owned(bytes.to_vec())).map_err(|error| {
                *self.thrown.borrow_mut() = Some(error);
                io::Error::other("the source failed")
            })
        })
    }
}

/// A model's files, and what reading them threw.
pub struct Files {
    pub gguf: Gguf,
    thrown: Thrown,
}

impl Files {
    /// Reads the header of a file, or of all parts of a split model.
    pub async fn open(sources: Vec<Source>) -> Result<Self, JsValue> {
        let thrown = Thrown::default();
        let parts = sources.into_iter().map(|source| JsSource { source, thrown: Rc::clone(&thrown) });
        let opened = Gguf::from_sources(parts).await;
        match opened {
            Ok(gguf) => Ok(Self { gguf, thrown }),
            Err(error) => Err(thrown.take().unwrap_or_else(|| error::of(error))),
        }
    }

    /// Returns the JavaScript error of a failed use of the files.
    pub fn error(&self, error: impl Into<Error>) -> JsValue {
        self.thrown.take().unwrap_or_else(|| error::of(error))
    }
}
