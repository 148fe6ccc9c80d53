//! Supported architectures: each describes its parts in terms of [`Config`].

mod gemma;
mod gpt_oss;
mod granite;
mod llama;
mod olmoe;
mod qwen;
mod qwen_next;

use super::{Config, keys::Keys};

/// Completes the description of a model, whose sizes are known and whose parts are [`Config`]'s plainest.
pub(super) type Describe = fn(&Keys<'_>, &mut Config);

macro_rules! architectures {
    ($($(#[$doc:meta])* $variant:ident = $name:literal by $describe:path;)*) => {
        /// A supported decoder architecture.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Architecture {
            $($(#[$doc])* $variant,)*
        }

        impl Architecture {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the name in `general.architecture`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Returns the function that describes its models.
            pub(super) fn describe(self) -> Describe {
                match self {
                    $(Self::$variant => $describe,)*
                }
            }
        }
    };
}

architectures! {
    /// Qwen3 mixture of experts.
    Qwen3Moe = "qwen3moe" by qwen::qwen3moe;
    /// Dense Qwen3.
    Qwen3 = "qwen3" by qwen::qwen3;
    /// The text decoder of Qwen3-VL mixtures of experts.
    Qwen3VlMoe = "qwen3vlmoe" by qwen::qwen3moe;
    /// The text decoder of dense Qwen3-VL.
    Qwen3Vl = "qwen3vl" by qwen::qwen3;
    /// Qwen2 mixture of experts.
    Qwen2Moe = "qwen2moe" by qwen::qwen2moe;
    /// Qwen3-Next.
    Qwen3Next = "qwen3next" by qwen_next::qwen3next;
    /// Qwen3.5 and Qwen3.6 mixture of experts.
    Qwen35Moe = "qwen35moe" by qwen_next::qwen35moe;
    /// Dense Qwen3.5, Qwen3.6 and Qwen3.8.
    Qwen35 = "qwen35" by qwen_next::qwen35;
    /// Dense Qwen2 and Qwen2.5.
    Qwen2 = "qwen2" by qwen::qwen2;
    /// Llama, dense or of experts (Mixtral), and models of the same structure.
    Llama = "llama" by llama::llama;
    /// Mistral 3 and Ministral 3, dense or of experts.
    Mistral3 = "mistral3" by llama::mistral3;
    /// SmolLM3.
    SmolLm3 = "smollm3" by llama::smollm3;
    /// OLMoE.
    OlMoe = "olmoe" by olmoe::olmoe;
    /// Granite.
    Granite = "granite" by granite::granite;
    /// Granite mixture of experts.
    GraniteMoe = "granitemoe" by granite::granitemoe;
    /// Gemma 3.
    Gemma3 = "gemma3" by gemma::gemma3;
    /// gpt-oss.
    GptOss = "gpt-oss" by gpt_oss::gpt_oss;
}

impl Architecture {
    /// Returns whether files may have layers that predict further tokens, behind the others.
    pub(super) fn may_predict(self) -> bool {
        matches!(self, Self::Qwen3Next | Self::Qwen35Moe | Self::Qwen35)
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|a| a.name() == name)
    }

    /// Returns the names of all, for messages.
    pub(super) fn names() -> String {
        Self::ALL.iter().map(|a| a.name()).collect::<Vec<_>>().join(", ")
    }
}
