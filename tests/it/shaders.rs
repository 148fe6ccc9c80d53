//! Every supported shader without a GPU: it must be valid, fit WebGPU's default limits, and translate to every backend's
//! language.

use std::{collections::HashMap, sync::LazyLock};

use crate::stacks::{STACKS, Stack, Test};
use ferrum_wgpu::low_level::{
    conformance::{Feature, catalog},
    gpu::{Caps, Kernel},
    kernels::{Visitor, visit},
};
use naga::{
    back::{glsl, hlsl, msl, spv},
    proc::{BoundsCheckPolicies, Layouter},
    valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};

/// A composed and validated variant.
struct Composed {
    kernel: &'static str,
    name: String,
    needs: Vec<Feature>,
    covered: bool,
    module: naga::Module,
    info: ModuleInfo,
}

/// All supported variants of a device of default limits with every feature. Both tests use them.
static ALL: LazyLock<Vec<Composed>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for kernel in catalog() {
        for variant in kernel.variants {
            let name = format!("{} {}", kernel.name, variant.variant);
            let (module, info) = parse(&name, &variant.shader.text, &variant.needs);
            all.push(Composed {
                kernel: kernel.name,
                name,
                needs: variant.needs,
                covered: variant.covered,
                module,
                info,
            });
        }
    }
    all
});

fn parse(name: &str, text: &str, needs: &[Feature]) -> (naga::Module, ModuleInfo) {
    let module =
        naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    // The variant may use WebGPU without optional features, including `pack2x16float`, and what it says that it needs.
    let subgroups = needs.contains(&Feature::Subgroups);
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, subgroups);
    capabilities.set(Capabilities::SHADER_FLOAT16, needs.contains(&Feature::F16));
    let matrices = Feature::MATRICES.iter().any(|feature| needs.contains(feature));
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, matrices);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    (module, info)
}

/// Returns the bytes of every kernel's parameters in Rust.
fn params_bytes() -> HashMap<&'static str, usize> {
    struct Collect(HashMap<&'static str, usize>);
    impl Visitor for Collect {
        fn visit<K: Kernel>(&mut self, _: K) {
            self.0.insert(K::NAME, size_of::<K::Params>());
        }
    }
    let mut collect = Collect(HashMap::new());
    visit(&mut collect);
    collect.0
}

#[test]
fn all_fit_default_limits() {
    let (limits, params_bytes) = (Caps::portable(), params_bytes());
    for Composed { kernel, name, module, .. } in ALL.iter() {
        let mut layouter = Layouter::default();
        layouter.update(module.to_ctx()).expect("types have sizes");
        let (mut storage, mut workgroup_bytes) = (0, 0);
        for (_, variable) in module.global_variables.iter() {
            match variable.space {
                naga::AddressSpace::Storage { .. } => storage += 1,
                naga::AddressSpace::WorkGroup => workgroup_bytes += layouter[variable.ty].size,
                naga::AddressSpace::Uniform => {
                    let bytes = layouter[variable.ty].size as usize;
                    // The first workgroup of the dispatch comes after them.
                    assert_eq!(bytes, params_bytes[kernel] + 8, "{name}: Params in WGSL and in Rust");
                }
                _ => {}
            }
        }
        assert!(storage <= limits.max_storage_buffers, "{name}: {storage} storage buffers");
        assert!(workgroup_bytes <= limits.max_workgroup_bytes, "{name}: {workgroup_bytes} B of workgroup memory");
        let [entry] = &module.entry_points[..] else { panic!("{name}: {} entry points", module.entry_points.len()) };
        let invocations: u32 = entry.workgroup_size.iter().product();
        assert!(invocations <= limits.max_workgroup_invocations, "{name}: {invocations} invocations");
    }
}

/// Translates a module, which may use the type `f16`.
type Write = fn(&naga::Module, &ModuleInfo, f16: bool) -> Result<(), Box<dyn std::error::Error>>;

/// The translations to the languages of the stacks. `STACKS` lists the features that each lacks.
const LANGUAGES: [(&str, Write); 6] = [
    ("SPIR-V", |module, info, _| {
        spv::write_vec(module, info, &spv::Options::default(), None)?;
        Ok(())
    }),
    ("MSL", |module, info, _| {
        // wgpu assigns a slot to every binding; here any will do.
        let options = msl::Options { fake_missing_bindings: true, lang_version: (2, 4), ..Default::default() };
        msl::write_string(module, info, &options, &msl::PipelineOptions::default())?;
        Ok(())
    }),
    ("DXC", |module, info, f16| {
        write_hlsl(module, info, if f16 { hlsl::ShaderModel::V6_2 } else { hlsl::ShaderModel::V6_0 })
    }),
    ("HLSL 5.1", |module, info, _| write_hlsl(module, info, hlsl::ShaderModel::V5_1)),
    ("GLSL 4.30", |module, info, _| write_glsl(module, info, glsl::Version::Desktop(430))),
    ("GLSL ES 3.10", |module, info, _| write_glsl(module, info, glsl::Version::new_gles(310))),
];

fn write_hlsl(
    module: &naga::Module,
    info: &ModuleInfo,
    shader_model: hlsl::ShaderModel,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
    hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default()).write(module, info, None)?;
    Ok(())
}

fn write_glsl(
    module: &naga::Module,
    info: &ModuleInfo,
    version: glsl::Version,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    let options = glsl::Options { version, writer_flags: glsl::WriterFlags::empty(), ..Default::default() };
    let pipeline = glsl::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: "main".to_owned(),
        multiview: None,
    };
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, BoundsCheckPolicies::default())?.write()?;
    Ok(())
}

#[test]
fn covered_shaders_translate_to_every_backend() {
    let languages =
        LANGUAGES.map(|(name, write)| (Stack::named(name).unwrap_or_else(|| panic!("no stack {name}")), write));
    for stack in STACKS.iter().filter(|stack| stack.test == Test::Translates) {
        assert!(LANGUAGES.iter().any(|(name, _)| *name == stack.name), "nothing is translated to {}", stack.name);
    }
    for Composed { name, needs, module, info, .. } in ALL.iter().filter(|composed| composed.covered) {
        for (stack, write) in &languages {
            let caps = stack.caps();
            if needs.iter().all(|feature| feature.is_in(&caps)) {
                write(module, info, needs.contains(&Feature::F16))
                    .unwrap_or_else(|error| panic!("{name}: {}: {error}", stack.name));
            } else if stack.name.starts_with("GLSL") {
                let written = write(module, info, true).is_ok();
                assert!(!written, "{name}: naga translates it to {} now: update `STACKS`", stack.name);
            }
        }
    }
}
