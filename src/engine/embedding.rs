//! Embeddings: hidden states of a text, pooled to one vector.

use super::{Engine, EngineError};
use crate::gguf::{GgufError, Metadata};

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the first token (`cls`).
    First,
    /// That of the last token.
    Last,
}

impl Pooling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mean, Self::First, Self::Last];

    /// Returns the name, as llama.cpp has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::First => "cls",
            Self::Last => "last",
        }
    }

    /// Returns the pooling that a file is made for, `{architecture}.pooling_type`; `None` if it names none, as files of chat models
    /// do.
    ///
    /// # Errors
    /// [`GgufError`] for a value of another type; [`EngineError::Option`] for models that rank texts, and unknown values.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<Self>, EngineError> {
        let invalid = |error: GgufError| EngineError::from(crate::model::ModelError::from(error));
        let Some(architecture) = metadata.str("general.architecture").map_err(invalid)? else { return Ok(None) };
        let key = format!("{architecture}.pooling_type");
        match metadata.u32(&key).map_err(invalid)? {
            None | Some(0) => Ok(None),
            Some(1) => Ok(Some(Self::Mean)),
            Some(2) => Ok(Some(Self::First)),
            Some(3) => Ok(Some(Self::Last)),
            Some(other) => Err(EngineError::Option {
                option: "pooling_type",
                value: other.to_string(),
                range: "1 (mean), 2 (cls) or 3 (last)",
            }),
        }
    }
}

/// The options of [`Engine::embed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct EmbedOptions {
    /// How hidden states are pooled.
    pub pooling: Pooling,
    /// Whether the vector is divided by its Euclidean norm.
    pub normalise: bool,
}

setters! {
    EmbedOptions {
        pooling: Pooling,
        normalise: bool,
    }
    optional {}
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self { pooling: Pooling::default(), normalise: true }
    }
}

impl Engine {
    /// Returns the embedding `[hidden]` of a text's tokens: their hidden states after the output norm, pooled. It is computed in a
    /// batch with other requests, by prefill passes.
    ///
    /// ```
    /// # use ferrum_wgpu::{Device, Error, Gguf, Model};
    /// use ferrum_wgpu::{EmbedOptions, Engine, EngineOptions, Pooling};
    ///
    /// # async fn example() -> Result<(), Error> {
    /// # let gguf = Gguf::open("models/demo-q4_k_m.gguf")?;
    /// # let model = Model::load(&Device::cpu(), &gguf, |_, _| ()).await?;
    /// let engine = Engine::new(&model, &EngineOptions::default().context(64)).await?;
    /// let pooling = Pooling::from_metadata(gguf.metadata())?.unwrap_or_default();
    /// let vector = engine.embed(&[1, 2, 3], &EmbedOptions::default().pooling(pooling)).await?;
    /// assert_eq!(vector.len(), engine.config().hidden as usize);
    /// # Ok(())
    /// # }
    /// # pollster::block_on(example()).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of [`Session::forward`](super::Session::forward); [`EngineError::NotANumber`].
    pub async fn embed(&self, tokens: &[u32], options: &EmbedOptions) -> Result<Vec<f32>, EngineError> {
        let mut session = self.session();
        let mut vector: Vec<f64> = vec![0.0; self.config().hidden as usize];
        let mut add = |state: &[f32]| vector.iter_mut().zip(state).for_each(|(sum, value)| *sum += f64::from(*value));
        match options.pooling {
            Pooling::Mean => session.hidden_states(tokens, add).await?,
            // Attention is causal: the first state depends on no other token.
            Pooling::First => add(&session.hidden_state(tokens.get(..1).unwrap_or_default()).await?),
            Pooling::Last => add(&session.hidden_state(tokens).await?),
        }
        let norm = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(EngineError::NotANumber);
        }
        let divisor = match (options.normalise, options.pooling) {
            (true, _) if norm > 0.0 => norm,
            // A vector of zeros stays.
            (true, _) => 1.0,
            (false, Pooling::Mean) => tokens.len() as f64,
            (false, _) => 1.0,
        };
        Ok(vector.into_iter().map(|value| (value / divisor) as f32).collect())
    }
}
