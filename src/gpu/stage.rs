//! The part of a model that a dispatch belongs to.

use std::fmt;

/// A part of a model, in the order of computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Token embedding.
    Embed,
    /// Norm, Q/K/V projections, RoPE, attention and the output projection.
    Attention,
    /// Norm, router and top-k.
    Router,
    /// Gate and up projections, with the activation between them.
    GateUp,
    /// Down projection.
    DownProj,
    /// The weighted sum of the experts' outputs.
    MoeCombine,
    /// The last norm and the logits.
    Head,
    /// The choice of tokens.
    Sampling,
    /// Loading of offloaded experts by the host.
    LoadExperts,
    /// Copies of KV blocks that sequences share.
    CopyBlocks,
    /// None of a model's.
    #[default]
    Other,
}

impl Stage {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Attention => "attention",
            Self::Router => "router",
            Self::GateUp => "gate/up",
            Self::DownProj => "down",
            Self::MoeCombine => "MoE combine",
            Self::Head => "head",
            Self::Sampling => "sampling",
            Self::LoadExperts => "load experts",
            Self::CopyBlocks => "copy blocks",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The layer and stage of a dispatch. Its `Display` form is `blk.3 attention`, or outside of layers `head`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The layer's number, for a dispatch of a layer.
    pub layer: Option<u32>,
    /// The stage.
    pub stage: Stage,
}

impl Scope {
    /// Returns the scope of a stage of a layer.
    pub const fn layer(layer: u32, stage: Stage) -> Self {
        Self { layer: Some(layer), stage }
    }
}

impl From<Stage> for Scope {
    fn from(stage: Stage) -> Self {
        Self { layer: None, stage }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "blk.{layer} {}", self.stage),
            None => self.stage.fmt(f),
        }
    }
}
