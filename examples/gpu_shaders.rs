//! Writes the SPIR-V that wgpu's Vulkan backend makes of every supported kernel variant, for the compilers of real GPUs:
//! `gpu_shaders FOLDER [WGSL...]`. Translates the named WGSL files as well.
//!
//! `FOLDER/index.tsv` has a line for each variant: file, kernel, variant, needed features, bytes of workgroup memory, and
//! the GPUs on which plans of the documented models dispatch it, first with default options and then with any.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write,
    fs,
    path::Path,
};

use ferrum_wgpu::{
    Gguf, KvType, Precision,
    low_level::{
        conformance::{Feature, catalog},
        gpu::workgroup_bytes,
        model::{DeviceClass, DeviceProfile, FileType, PRESETS, PlanOptions, PlannedKernel, PlannedPasses, planned},
    },
};
use naga::{
    back::spv::{self, Capability},
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};

/// How f16 are converted without the device, and what replaces it after a device's self-test.
const F16_BY_INTEGERS: &str = include_str!("../wgsl/quant/f16_integers.wgsl");
const F16_BY_THE_DEVICE: &str = include_str!("../wgsl/quant/f16_unpack.wgsl");

/// A GPU of tools/stacks/gpu_compilers: its name there, the known device that has its limits, its class, and whether its
/// Vulkan driver offers 16 by 16 matrices of f16.
struct Gpu(&'static str, &'static str, DeviceClass, bool);

const GPUS: [Gpu; 11] = {
    use DeviceClass::{Discrete, Integrated};
    [
        Gpu("navi21", "RX 7900 XTX", Discrete, false),
        Gpu("navi31", "RX 7900 XTX", Discrete, true),
        // Mesa 25.0 has no matrices for RDNA 4.
        Gpu("gfx1201", "RX 7900 XTX", Discrete, false),
        Gpu("a770", "Arc A770", Discrete, false),
        Gpu("b580", "Arc A770", Discrete, false),
        Gpu("tgl", "Arc A770", Integrated, false),
        Gpu("rtx3070", "RTX 3060", Discrete, true),
        Gpu("rtx4090", "RTX 4090", Discrete, true),
        // With Vulkan's features: 8 by 8 matrices are Metal's only.
        Gpu("m1", "Apple M1", Integrated, false),
        Gpu("m2", "Apple M1", Integrated, false),
        Gpu("adreno750", "Adreno 750", Integrated, false),
    ]
};

impl Gpu {
    fn profile(&self) -> Result<DeviceProfile, String> {
        let &Self(name, known, class, f16_16) = self;
        let profile = DeviceProfile::known().into_iter().find(|(other, _)| *other == known);
        let (_, mut profile) = profile.ok_or_else(|| format!("{name}: no known device {known}"))?;
        profile.class = class;
        let matrices = &mut profile.caps.matrices;
        (matrices.f32_8, matrices.f16_8, matrices.f16_16) = (false, false, f16_16);
        Ok(profile)
    }
}

/// The GPUs that dispatch each variant.
type GpusOf = BTreeMap<(String, String), BTreeSet<&'static str>>;

/// Adds the kernels of `passes` on every GPU.
fn add(gpus_of: &mut GpusOf, gguf: &Gguf, passes: &PlannedPasses) -> Result<(), Box<dyn Error>> {
    for gpu in &GPUS {
        for PlannedKernel { kernel, variant } in pollster::block_on(planned(gguf, &gpu.profile()?, passes))? {
            gpus_of.entry((kernel.to_owned(), variant)).or_default().insert(gpu.0);
        }
    }
    Ok(())
}

/// Returns the GPUs of each variant that plans dispatch with default options, and with any.
fn plans() -> Result<(GpusOf, GpusOf), Box<dyn Error>> {
    let (mut default, mut any) = (GpusOf::new(), GpusOf::new());
    for preset in PRESETS {
        for types in [FileType::Q4KM, FileType::Q8_0, FileType::F16] {
            // Eight layers have all types of tensors.
            let gguf = preset.with_layers(types, 8)?;
            if types == FileType::Q4KM {
                add(&mut default, &gguf, &PlannedPasses::default())?;
            }
            for precision in Precision::ALL {
                for kv_type in [KvType::F16, KvType::Q8_0] {
                    let plan = PlanOptions { precision, ..PlanOptions::default() };
                    add(&mut any, &gguf, &PlannedPasses { plan, kv_type, ..PlannedPasses::default() })?;
                }
            }
        }
    }
    Ok((default, any))
}

/// Returns the SPIR-V of a shader, with the options of wgpu-hal 30's Vulkan adapter on a device with robustBufferAccess2.
fn spir_v(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|error| error.emit_to_string(text))?;
    let mut capabilities = vec![
        Capability::Shader,
        Capability::Matrix,
        Capability::Sampled1D,
        Capability::Image1D,
        Capability::ImageQuery,
        Capability::DerivativeControl,
        Capability::StorageImageExtendedFormats,
        Capability::GroupNonUniform,
        Capability::GroupNonUniformVote,
        Capability::GroupNonUniformArithmetic,
        Capability::GroupNonUniformBallot,
        Capability::GroupNonUniformShuffle,
        Capability::GroupNonUniformShuffleRelative,
        Capability::GroupNonUniformQuad,
        Capability::Float16,
        Capability::DotProductInputAllKHR,
        Capability::DotProductInput4x8BitKHR,
        Capability::DotProductInput4x8BitPackedKHR,
        Capability::DotProductKHR,
        Capability::Int8,
    ];
    if text.contains("wgpu_cooperative_matrix") {
        capabilities.extend([Capability::CooperativeMatrixKHR, Capability::VulkanMemoryModel]);
    }
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::FORCE_POINT_SIZE,
        capabilities: Some(capabilities.into_iter().collect()),
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Restrict,
            // The device checks buffers.
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        // The library asks for this.
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: true,
        emit_int_div_checks: true,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".to_owned() };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline))?;
    Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: gpu_shaders FOLDER [WGSL...]")?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    for path in args {
        let text = fs::read_to_string(&path)?;
        let stem = Path::new(&path).file_stem().ok_or("no file name")?;
        fs::write(folder.join(stem).with_extension("spv"), spir_v(&text).map_err(|error| format!("{path}: {error}"))?)?;
    }

    let (default, any) = plans()?;
    let mut index = String::new();
    let mut written = 0;
    for kernel in catalog() {
        for (number, variant) in kernel.variants.iter().enumerate() {
            let file = format!("{}-{number}.spv", kernel.name.replace('/', "-"));
            let needs: Vec<&str> = variant.needs.iter().copied().map(Feature::name).collect();
            let key = (kernel.name.to_owned(), variant.variant.clone());
            let gpus = |of: &GpusOf| of.get(&key).into_iter().flatten().copied().collect::<Vec<_>>().join(",");
            let words = spir_v(&variant.shader.text.replace(F16_BY_INTEGERS, F16_BY_THE_DEVICE))
                .map_err(|error| format!("{} {}: {error}", kernel.name, variant.variant))?;
            fs::write(folder.join(&file), words)?;
            writeln!(
                index,
                "{file}\t{}\t{}\t{}\t{}\t{}\t{}",
                kernel.name,
                variant.variant,
                needs.join(","),
                workgroup_bytes(&variant.shader).unwrap_or_default(),
                gpus(&default),
                gpus(&any)
            )?;
            written += 1;
        }
    }
    fs::write(folder.join("index.tsv"), index)?;
    println!("{written} shaders");
    Ok(())
}
