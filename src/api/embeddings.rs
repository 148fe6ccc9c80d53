//! Requests of `/v1/embeddings`.

use std::{
    fmt::Write as _,
    future::{Future as _, poll_fn},
    sync::Arc,
    task::Poll,
};

use serde_json::{Value, json};

use super::{
    ApiError, Observer,
    chat::{Prompt, prompts},
    fields::Fields,
};
use crate::engine::{EmbedOptions, Engine, EngineError};

/// The most inputs of a request.
const MAX_INPUTS: usize = 2048;

/// A request for embeddings.
#[derive(Clone, Debug)]
pub(super) struct EmbeddingRequest {
    pub(super) model: Option<String>,
    pub(super) inputs: Vec<Prompt>,
    pub(super) base64: bool,
}

impl EmbeddingRequest {
    /// Reads a request of OpenAI's API, to a model with vectors of `hidden` values.
    pub(super) fn openai(value: Value, hidden: u32) -> Result<Self, ApiError> {
        let mut fields = Fields::of_request(value)?;
        let model = fields.string("model")?;
        let inputs = prompts(fields.required("input")?, "input", MAX_INPUTS)?;
        let base64 = match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return Err(fields.error("encoding_format", "must be float or base64")),
        };
        // A shorter vector has a meaning only for models that are trained for it, which files do not say.
        fields.only("dimensions", &[json!(hidden)])?;
        fields.ignore(&["user"]);
        fields.finish()?;
        Ok(Self { model, inputs, base64 })
    }
}

/// Embeddings in progress. They do not depend on a server or an executor. Dropping them cancels the request.
pub struct Embeddings {
    pub(super) engine: Engine,
    pub(super) options: EmbedOptions,
    pub(super) inputs: Vec<Vec<u32>>,
    pub(super) base64: bool,
    pub(super) model: String,
    pub(super) observer: Option<Arc<dyn Observer>>,
}

impl std::fmt::Debug for Embeddings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embeddings").field("inputs", &self.inputs.len()).finish_non_exhaustive()
    }
}

impl Embeddings {
    /// Waits for the whole response. As many inputs are computed at once as the engine has sequences.
    ///
    /// # Errors
    /// [`ApiError`] when an input fails.
    pub async fn whole(self) -> Result<Value, ApiError> {
        let tokens: usize = self.inputs.iter().map(Vec::len).sum();
        let vectors = self.vectors().await.map_err(|error| {
            if let Some(observer) = &self.observer {
                observer.failed(&error);
            }
            let context = matches!(error, EngineError::ContextFull { .. } | EngineError::NeverFits { .. });
            ApiError { param: context.then(|| "input".to_owned()), ..error.into() }
        })?;
        if let Some(observer) = &self.observer {
            observer.embedded(tokens as u32);
        }
        let data: Vec<Value> = vectors
            .into_iter()
            .enumerate()
            .map(|(index, vector)| {
                let embedding = if self.base64 { json!(base64(&vector)) } else { json!(vector) };
                json!({"object": "embedding", "index": index, "embedding": embedding})
            })
            .collect();
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
        Ok(json!({"object": "list", "data": data, "model": self.model, "usage": usage}))
    }

    /// Computes the vectors of all inputs.
    async fn vectors(&self) -> Result<Vec<Vec<f32>>, EngineError> {
        let most = self.engine.options().sequences.max(1) as usize;
        let mut vectors = vec![Vec::new(); self.inputs.len()];
        let mut waiting = self.inputs.iter().enumerate();
        let mut running = Vec::new();
        poll_fn(|context| {
            for (index, tokens) in waiting.by_ref().take(most.saturating_sub(running.len())) {
                running.push((index, Box::pin(self.engine.embed(tokens, &self.options))));
            }
            let mut at = 0;
            let before = running.len();
            while let Some((index, vector)) = running.get_mut(at) {
                match vector.as_mut().poll(context) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(vector)) => {
                        vectors[*index] = vector;
                        drop(running.swap_remove(at));
                    }
                }
            }
            if running.is_empty() && waiting.len() == 0 {
                return Poll::Ready(Ok(()));
            }
            if running.len() < before {
                // Others begin; first the caller notices a client that left.
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await?;
        Ok(vectors)
    }
}

/// Returns the little-endian bytes of `values` in base64.
fn base64(values: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4usize {
            let place = DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char;
            let _ = text.write_char(if digit <= group.len() { place } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_has_the_bytes_of_floats() {
        assert_eq!(super::base64(&[]), "");
        assert_eq!(super::base64(&[1.0]), "AACAPw==");
        assert_eq!(super::base64(&[1.0, -2.5]), "AACAPwAAIMA=");
        assert_eq!(super::base64(&[0.1, 3.0, 1e9]), "zczMPQAAQEAoa25O");
    }
}
