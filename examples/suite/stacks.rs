//! The drivers, compilers and languages that the kernels are tested on (`make test-stacks`, `tests/it/shaders.rs`), and the
//! features that each lacks.

use ferrum_wgpu::low_level::{conformance::Feature, gpu::Caps};

/// How a stack tests shaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Runs the cases.
    Runs,
    /// Compiles the WGSL, or naga's translation of it.
    Compiles,
    /// Is a language that naga translates to.
    Translates,
}

/// A driver, a compiler or a language. It tests the covered variants that it has the features for.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// Its name.
    pub name: &'static str,
    /// A description.
    pub what: &'static str,
    /// How it tests shaders.
    pub test: Test,
    /// The features that it lacks, with the reason.
    pub lacks: &'static [(&'static [Feature], &'static str)],
}

const MATRICES: &[Feature] = &Feature::MATRICES;
const GLSL_F16: (&[Feature], &str) = (&[Feature::F16], "naga does not translate f16 to GLSL");
const GL_MATRICES: (&[Feature], &str) = (MATRICES, "not in GLSL");
const HLSL_MATRICES: (&[Feature], &str) = (MATRICES, "naga does not translate them to HLSL");
const WEB_MATRICES: (&[Feature], &str) = (MATRICES, "not in WebGPU");

/// The stacks of `make test-stacks` and `tests/it/shaders.rs`. Each has all features that are not listed as lacking.
pub const STACKS: &[Stack] = &[
    Stack {
        name: "CPU kernels",
        what: "the kernels' CPU implementations",
        test: Test::Runs,
        lacks: &[
            (&[Feature::Subgroups], "one CPU kernel serves all variants"),
            (MATRICES, "one CPU kernel serves all variants"),
        ],
    },
    Stack {
        name: "lavapipe",
        what: "Mesa's Vulkan in software, of Debian 12, subgroups of 8 invocations",
        test: Test::Runs,
        lacks: &[(MATRICES, "not in this version of Mesa")],
    },
    Stack {
        name: "Mesa",
        what: "Debian's newest lavapipe, with cooperative matrices",
        test: Test::Runs,
        lacks: &[(&[Feature::MatricesF32, Feature::Matrices16], "it has 8x8 f16 only")],
    },
    Stack {
        name: "SwiftShader",
        what: "Chromium's Vulkan in software, subgroups of 4",
        test: Test::Runs,
        lacks: &[
            (&[Feature::SoftwareSubgroup8], "subgroups have 4 invocations"),
            (&[Feature::F16], "its Vulkan has no shaderFloat16"),
            (MATRICES, "its Vulkan has no VK_KHR_cooperative_matrix"),
        ],
    },
    Stack {
        name: "GL",
        what: "Mesa's OpenGL ES in software (llvmpipe)",
        test: Test::Runs,
        lacks: &[(&[Feature::Subgroups], "llvmpipe's OpenGL has no KHR_shader_subgroup"), GLSL_F16, GL_MATRICES],
    },
    Stack {
        name: "browser",
        what: "WebGPU in Chromium on SwiftShader",
        test: Test::Runs,
        lacks: &[
            (&[Feature::SoftwareSubgroup8], "SwiftShader's subgroups have 4 invocations"),
            (&[Feature::F16], "not in SwiftShader"),
            WEB_MATRICES,
        ],
    },
    Stack {
        name: "Tint",
        what: "the browser's compiler, in Dawn under Node",
        test: Test::Compiles,
        lacks: &[WEB_MATRICES],
    },
    Stack {
        name: "DXC",
        what: "Direct3D's compiler, on naga's HLSL for shader model 6.0 (with f16: 6.2)",
        test: Test::Compiles,
        lacks: &[HLSL_MATRICES],
    },
    Stack { name: "SPIR-V", what: "for Vulkan, validated by spirv-val", test: Test::Translates, lacks: &[] },
    Stack {
        name: "MSL",
        what: "2.4, for Metal",
        test: Test::Translates,
        lacks: &[(&[Feature::Matrices16], "Metal has 8x8 only")],
    },
    Stack {
        name: "HLSL 5.1",
        what: "for FXC, if DXC is missing",
        test: Test::Translates,
        lacks: &[
            (&[Feature::Subgroups], "wave operations need 6.0: wgpu offers no subgroups with FXC"),
            (&[Feature::F16], "16-bit types need 6.2"),
            HLSL_MATRICES,
        ],
    },
    Stack {
        name: "GLSL 4.30",
        what: "for OpenGL, validated by glslang",
        test: Test::Translates,
        lacks: &[GLSL_F16, GL_MATRICES],
    },
    Stack { name: "GLSL ES 3.10", what: "for OpenGL ES", test: Test::Translates, lacks: &[GLSL_F16, GL_MATRICES] },
];

impl Stack {
    /// Returns the stack called `name`, in any case.
    pub fn named(name: &str) -> Option<&'static Self> {
        STACKS.iter().find(|stack| stack.name.eq_ignore_ascii_case(name))
    }

    /// Returns WebGPU's default limits with the features that it has.
    pub fn caps(&self) -> Caps {
        let lacks = |feature| self.lacks.iter().any(|(lacking, _)| lacking.contains(&feature));
        Feature::caps(&Feature::ALL.into_iter().filter(|feature| !lacks(*feature)).collect::<Vec<_>>())
    }

    /// Returns the features that the stack should have and `caps` do not: if there are any, fewer variants are tested than
    /// docs/KERNELS.md says.
    pub fn missing_in(&self, caps: &Caps) -> Vec<Feature> {
        let own = self.caps();
        Feature::ALL.into_iter().filter(|feature| feature.is_in(&own) && !feature.is_in(caps)).collect()
    }
}
