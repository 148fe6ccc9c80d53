//! The stacks that kernels are judged on, and what each of them lacks.

use crate::gpu::{Caps, Matrices};

/// What a kernel variant may need beyond WebGPU's default limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Subgroup operations.
    Subgroups,
    /// Subgroups of at least eight invocations.
    MinSubgroup8,
    /// `pack2x16float` and `unpack2x16float`, for an f16 KV cache.
    PackF16,
    /// The type `f16`.
    F16,
    /// Cooperative matrices of f32, 8 by 8.
    MatricesF32,
    /// Cooperative matrices of halves, 8 by 8.
    Matrices8,
    /// Cooperative matrices of halves, 16 by 16.
    Matrices16,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Subgroups,
        Self::MinSubgroup8,
        Self::PackF16,
        Self::F16,
        Self::MatricesF32,
        Self::Matrices8,
        Self::Matrices16,
    ];

    /// Cooperative matrices of any kind.
    pub const MATRICES: [Self; 3] = [Self::MatricesF32, Self::Matrices8, Self::Matrices16];

    /// Its name, that of the command `devices` where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subgroups => "subgroups",
            Self::MinSubgroup8 => "of 8",
            Self::PackF16 => "f16-kv",
            Self::F16 => "f16",
            Self::MatricesF32 => "8x8 f32 matrices",
            Self::Matrices8 => "8x8 f16 matrices",
            Self::Matrices16 => "16x16 f16 matrices",
        }
    }

    /// Whether `caps` have it.
    pub fn is_in(self, caps: &Caps) -> bool {
        match self {
            Self::Subgroups => caps.subgroups,
            Self::MinSubgroup8 => caps.min_subgroup_8,
            Self::PackF16 => caps.pack_f16,
            Self::F16 => caps.f16,
            Self::MatricesF32 => caps.matrices.f32_8,
            Self::Matrices8 => caps.matrices.f16_8,
            Self::Matrices16 => caps.matrices.f16_16,
        }
    }

    /// WebGPU's default limits with these features and no others.
    pub fn caps(features: &[Self]) -> Caps {
        let has = |feature| features.contains(&feature);
        let subgroups = has(Self::Subgroups);
        let min_subgroup_8 = subgroups && has(Self::MinSubgroup8);
        let (pack_f16, f16) = (has(Self::PackF16), has(Self::F16));
        let matrices =
            Matrices { f32_8: has(Self::MatricesF32), f16_8: has(Self::Matrices8), f16_16: has(Self::Matrices16) };
        Caps { subgroups, min_subgroup_8, pack_f16, f16, matrices, ..Caps::portable() }
    }
}

/// How a stack judges shaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It runs the cases.
    Runs,
    /// It compiles the WGSL, or what naga makes of it.
    Compiles,
    /// naga translates to it.
    Translates,
}

/// A driver, a compiler or a language that variants are judged by: those that it has the features for.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// How it judges.
    pub judgement: Judgement,
    /// What it lacks, with the reason.
    pub lacks: &'static [(&'static [Feature], &'static str)],
}

const MATRICES: &[Feature] = &Feature::MATRICES;
const GLSL_F16: (&[Feature], &str) = (&[Feature::F16], "naga writes no halves in GLSL");
const GL_MATRICES: (&[Feature], &str) = (MATRICES, "GLSL has none");
const HLSL_MATRICES: (&[Feature], &str) = (MATRICES, "naga writes none in HLSL");
const WEB_MATRICES: (&[Feature], &str) = (MATRICES, "WebGPU has none");

/// The stacks of `make test-stacks` and `tests/it/shaders.rs`. Each has at least what is not said to be lacking.
pub const STACKS: &[Stack] = &[
    Stack {
        name: "CPU kernels",
        what: "the kernels' CPU kernels on the CPU",
        judgement: Judgement::Runs,
        lacks: &[
            (&[Feature::Subgroups], "a CPU kernel is one for all ways to sum"),
            (MATRICES, "a CPU kernel is one for all ways to multiply"),
        ],
    },
    Stack {
        name: "lavapipe",
        what: "Mesa's Vulkan in software, of Debian 12, subgroups of 8",
        judgement: Judgement::Runs,
        lacks: &[(MATRICES, "Mesa had none then")],
    },
    Stack {
        name: "Mesa",
        what: "the same of Debian's newest Mesa, with cooperative matrices",
        judgement: Judgement::Runs,
        lacks: &[(&[Feature::MatricesF32, Feature::Matrices16], "it lists 8 by 8 of halves")],
    },
    Stack {
        name: "SwiftShader",
        what: "Chromium's Vulkan in software, subgroups of 4",
        judgement: Judgement::Runs,
        lacks: &[
            (&[Feature::MinSubgroup8], "a workgroup of eight is two subgroups"),
            (&[Feature::F16], "its Vulkan has no shaderFloat16"),
            (MATRICES, "its Vulkan has no VK_KHR_cooperative_matrix"),
        ],
    },
    Stack {
        name: "GL",
        what: "Mesa's OpenGL ES in software (llvmpipe)",
        judgement: Judgement::Runs,
        lacks: &[(&[Feature::Subgroups], "llvmpipe's OpenGL has no KHR_shader_subgroup"), GLSL_F16, GL_MATRICES],
    },
    Stack {
        name: "browser",
        what: "WebGPU in Chromium on SwiftShader",
        judgement: Judgement::Runs,
        lacks: &[
            (&[Feature::Subgroups], "wgpu does not pass them on from a browser (docs/UPSTREAM.md)"),
            (&[Feature::F16], "SwiftShader has none; on a GPU wgpu passes it on"),
            WEB_MATRICES,
        ],
    },
    Stack {
        name: "Tint",
        what: "the browser's compiler, in Dawn under Node",
        judgement: Judgement::Compiles,
        lacks: &[WEB_MATRICES],
    },
    Stack {
        name: "DXC",
        what: "Direct3D's compiler, on naga's HLSL of shader model 6.0, with f16 6.2",
        judgement: Judgement::Compiles,
        lacks: &[HLSL_MATRICES],
    },
    Stack { name: "SPIR-V", what: "for Vulkan, judged by spirv-val", judgement: Judgement::Translates, lacks: &[] },
    Stack {
        name: "MSL",
        what: "2.4, for Metal",
        judgement: Judgement::Translates,
        lacks: &[(&[Feature::Matrices16], "Metal has 8 by 8, and wgpu lists no other")],
    },
    Stack {
        name: "HLSL 5.1",
        what: "for FXC, where there is no DXC",
        judgement: Judgement::Translates,
        lacks: &[
            (&[Feature::Subgroups], "wave operations came with 6.0: wgpu offers no subgroups where FXC compiles"),
            (&[Feature::F16], "16-bit types came with 6.2"),
            HLSL_MATRICES,
        ],
    },
    Stack {
        name: "GLSL 4.30",
        what: "for OpenGL, judged by glslang",
        judgement: Judgement::Translates,
        lacks: &[GLSL_F16, GL_MATRICES],
    },
    Stack {
        name: "GLSL ES 3.10",
        what: "for OpenGL ES",
        judgement: Judgement::Translates,
        lacks: &[GLSL_F16, GL_MATRICES],
    },
];

impl Stack {
    /// The stack of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        STACKS.iter().find(|stack| stack.name.eq_ignore_ascii_case(name))
    }

    /// WebGPU's default limits and the features that it has: what variants are chosen from.
    pub fn caps(&self) -> Caps {
        let lacks = |feature| self.lacks.iter().any(|(lacking, _)| lacking.contains(&feature));
        Feature::caps(&Feature::ALL.into_iter().filter(|feature| !lacks(*feature)).collect::<Vec<_>>())
    }

    /// The features that it should have and `caps` do not: where there are any, fewer variants are judged than
    /// docs/KERNELS.md says.
    pub fn missing_in(&self, caps: &Caps) -> Vec<Feature> {
        let own = self.caps();
        Feature::ALL.into_iter().filter(|feature| feature.is_in(&own) && !feature.is_in(caps)).collect()
    }
}
