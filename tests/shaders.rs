//! Every shader without a GPU: it must be valid, fit WebGPU's default limits, and translate to every backend's language.

use ferrum_wgpu::{
    gpu::{Caps, Kernel, shader},
    kernels::{Visitor, visit},
};
use naga::{
    back::{glsl, hlsl, msl, spv},
    proc::{BoundsCheckPolicies, Layouter},
    valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator},
};

/// A composed variant.
struct Composed {
    name: String,
    text: String,
    params_bytes: usize,
}

/// All variants that a device of default limits, with or without subgroups, can run.
fn variants(subgroups: bool) -> Vec<Composed> {
    struct Collect(Caps, Vec<Composed>);
    impl Visitor for Collect {
        fn visit<K: Kernel>(&mut self, _: K) {
            for variant in K::variants(&self.0) {
                self.1.push(Composed {
                    name: format!("{} {variant:?}", K::NAME),
                    text: shader::<K>(variant).text,
                    params_bytes: size_of::<K::Params>(),
                });
            }
        }
    }
    let mut collect = Collect(Caps { subgroups, ..Caps::portable() }, Vec::new());
    visit(&mut collect);
    assert!(collect.1.len() > 60, "only {} variants", collect.1.len());
    collect.1
}

fn all() -> impl Iterator<Item = (Composed, bool)> {
    [false, true].into_iter().flat_map(|subgroups| variants(subgroups).into_iter().map(move |c| (c, subgroups)))
}

fn parse(composed: &Composed, subgroups: bool) -> (naga::Module, ModuleInfo) {
    let Composed { name, text, .. } = composed;
    let module =
        naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    // What WebGPU has without features; halves in words are part of it.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, subgroups);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(text)));
    (module, info)
}

#[test]
fn all_fit_default_limits() {
    let limits = Caps::portable();
    for (composed, subgroups) in all() {
        let (module, _) = parse(&composed, subgroups);
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
                    assert_eq!(bytes, composed.params_bytes, "{name}: Params in WGSL and in Rust");
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

/// Whether naga can write a module in a language.
type Written = Result<(), Box<dyn std::error::Error>>;

/// A language of a backend, and how naga writes it.
struct Language {
    name: &'static str,
    write: fn(&naga::Module, &ModuleInfo) -> Written,
    /// Why shaders with subgroup operations are not written in it, if they are not.
    without_subgroups: Option<&'static str>,
}

const LANGUAGES: [Language; 6] = [
    Language {
        name: "SPIR-V",
        write: |module, info| {
            spv::write_vec(module, info, &spv::Options::default(), None)?;
            Ok(())
        },
        without_subgroups: None,
    },
    Language {
        name: "MSL 2.4",
        write: |module, info| {
            // wgpu gives every binding a slot; here any will do.
            let options = msl::Options { fake_missing_bindings: true, lang_version: (2, 4), ..Default::default() };
            msl::write_string(module, info, &options, &msl::PipelineOptions::default())?;
            Ok(())
        },
        without_subgroups: None,
    },
    Language {
        name: "HLSL, shader model 6.0",
        write: |module, info| write_hlsl(module, info, hlsl::ShaderModel::V6_0),
        without_subgroups: None,
    },
    Language {
        name: "HLSL, shader model 5.1",
        write: |module, info| write_hlsl(module, info, hlsl::ShaderModel::V5_1),
        without_subgroups: Some("wave operations came with 6.0: wgpu offers no subgroups where FXC compiles"),
    },
    Language {
        name: "GLSL 4.30",
        write: |module, info| write_glsl(module, info, glsl::Version::Desktop(430)),
        without_subgroups: None,
    },
    Language {
        name: "GLSL ES 3.10",
        write: |module, info| write_glsl(module, info, glsl::Version::new_gles(310)),
        without_subgroups: None,
    },
];

fn write_hlsl(module: &naga::Module, info: &ModuleInfo, shader_model: hlsl::ShaderModel) -> Written {
    let mut text = String::new();
    let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
    hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default()).write(module, info, None)?;
    Ok(())
}

fn write_glsl(module: &naga::Module, info: &ModuleInfo, version: glsl::Version) -> Written {
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
    for (composed, subgroups) in all() {
        let (module, info) = parse(&composed, subgroups);
        for Language { name, write, without_subgroups } in &LANGUAGES {
            if !subgroups || without_subgroups.is_none() {
                write(&module, &info).unwrap_or_else(|error| panic!("{}: {name}: {error}", composed.name));
            }
        }
    }
}
