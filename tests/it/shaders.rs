//! Every shader without a GPU: it must be valid, fit WebGPU's default limits, and translate to every backend's language.

use std::collections::HashMap;

use ferrum_wgpu::{
    conformance::{Feature, Judgement, STACKS, Stack, catalog},
    gpu::{Caps, Kernel},
    kernels::{Visitor, visit},
};
use naga::{
    back::{glsl, hlsl, msl, spv},
    proc::{BoundsCheckPolicies, Layouter},
    valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};

/// A composed variant.
struct Composed {
    kernel: &'static str,
    name: String,
    text: String,
    needs: Vec<Feature>,
}

/// All variants that a device of default limits can run, whatever its features.
fn all() -> Vec<Composed> {
    let entries = catalog().into_iter().flat_map(|kernel| {
        kernel.variants.into_iter().map(move |variant| Composed {
            kernel: kernel.name,
            name: format!("{} {}", kernel.name, variant.variant),
            text: variant.shader.text,
            needs: variant.needs,
        })
    });
    let all: Vec<Composed> = entries.collect();
    assert!(all.len() > 60, "only {} variants", all.len());
    all
}

fn parse(composed: &Composed) -> (naga::Module, ModuleInfo) {
    let Composed { name, text, needs, .. } = composed;
    let module =
        naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    // What WebGPU has without features, halves in words being part of it, and what the variant says that it needs.
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

/// Bytes of every kernel's parameters in Rust.
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
    for composed in all() {
        let (module, _) = parse(&composed);
        let name = &composed.name;
        let mut layouter = Layouter::default();
        layouter.update(module.to_ctx()).expect("types have sizes");
        let (mut storage, mut workgroup_bytes) = (0, 0);
        for (_, variable) in module.global_variables.iter() {
            match variable.space {
                naga::AddressSpace::Storage { .. } => storage += 1,
                naga::AddressSpace::WorkGroup => workgroup_bytes += layouter[variable.ty].size,
                naga::AddressSpace::Uniform => {
                    let bytes = layouter[variable.ty].size as usize;
                    // A dispatch's first workgroup comes after them.
                    assert_eq!(bytes, params_bytes[composed.kernel] + 8, "{name}: Params in WGSL and in Rust");
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

/// Translates a module, which may have the type `f16`.
type Write = fn(&naga::Module, &ModuleInfo, f16: bool) -> Result<(), Box<dyn std::error::Error>>;

/// How naga writes what a stack reads. What is left out of each, and why, is in the library's list of stacks.
const LANGUAGES: [(&str, Write); 6] = [
    ("SPIR-V", |module, info, _| {
        spv::write_vec(module, info, &spv::Options::default(), None)?;
        Ok(())
    }),
    ("MSL", |module, info, _| {
        // wgpu gives every binding a slot; here any will do.
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
fn all_translate_to_every_backend() {
    let languages =
        LANGUAGES.map(|(name, write)| (Stack::named(name).unwrap_or_else(|| panic!("no stack {name}")), write));
    for stack in STACKS.iter().filter(|stack| stack.judgement == Judgement::Translates) {
        assert!(LANGUAGES.iter().any(|(name, _)| *name == stack.name), "nothing is translated to {}", stack.name);
    }
    for composed in all() {
        let (module, info) = parse(&composed);
        for (stack, write) in &languages {
            let caps = stack.caps();
            if composed.needs.iter().all(|feature| feature.is_in(&caps)) {
                write(&module, &info, composed.needs.contains(&Feature::F16))
                    .unwrap_or_else(|error| panic!("{}: {}: {error}", composed.name, stack.name));
            } else if stack.name.starts_with("GLSL") {
                let written = write(&module, &info, true).is_ok();
                assert!(!written, "{}: naga writes halves in {} now: list it", composed.name, stack.name);
            }
        }
    }
}
