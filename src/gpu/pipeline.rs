//! Compiled kernels, each compiled once a device.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU64,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
#[cfg(not(target_arch = "wasm32"))]
use std::{
    pin::pin,
    sync::atomic::AtomicUsize,
    task::{Context, Poll, Waker},
};

use super::{
    GpuError, Shader,
    driver::{Gpu, Made, lock},
    error_scope::caught,
    kernel::{Access, Op, PipelineKey},
    source::FIRST_BYTES,
};

/// A compiled kernel variant and the layout of its bindings.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) compute: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// The pipelines of one device.
#[derive(Debug, Default)]
pub(crate) struct PipelineCache {
    compiled: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    edits: Mutex<Vec<Edit>>,
    /// Whether shaders are compiled without wgpu's checks of indices and loops.
    pub(super) unchecked: AtomicBool,
    /// The driver's own, where it is to be kept.
    pub(super) driver: Mutex<Option<wgpu::PipelineCache>>,
}

/// A replacement in the shaders of one kernel, by name: how tests make a kernel compute wrong.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) kernel: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

impl PipelineCache {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PipelineKey, Arc<Pipeline>>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The edits that are made to shaders before they are compiled.
    pub(crate) fn edits(&self) -> std::sync::MutexGuard<'_, Vec<Edit>> {
        self.edits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles what some of `ops` have no pipeline for yet: natively several at a time, on threads of its own while the
    /// caller's waits.
    pub(crate) async fn compile(&self, gpu: &Gpu, ops: impl Iterator<Item = &dyn Op>) -> Result<(), GpuError> {
        let mut seen: HashSet<_> = self.lock().keys().cloned().collect();
        let missing: Vec<_> = ops.filter(|op| seen.insert(op.pipeline_key())).collect();
        #[cfg(not(target_arch = "wasm32"))]
        self.compile_side_by_side(gpu, &missing);
        // What is left, and what has failed, whose error is wanted.
        for op in missing {
            self.get(gpu, op).await?;
        }
        Ok(())
    }

    /// Compiles ops on several threads, of which one is the caller's. What fails is left out, and where the system has no
    /// thread to give there are fewer.
    #[cfg(not(target_arch = "wasm32"))]
    fn compile_side_by_side(&self, gpu: &Gpu, ops: &[&dyn Op]) {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(op) = ops.get(next.fetch_add(1, Ordering::Relaxed)) {
                // Natively nothing is waited for.
                let mut context = Context::from_waker(Waker::noop());
                if !matches!(pin!(self.get(gpu, *op)).poll(&mut context), Poll::Ready(Ok(_))) {
                    break;
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(ops.len());
        std::thread::scope(|scope| {
            for _ in 1..threads {
                let _ = std::thread::Builder::new().name("shader compiler".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
    }

    /// The pipeline of `op` on the device, compiled if it is not yet.
    pub(crate) async fn get(&self, gpu: &Gpu, op: &dyn Op) -> Result<Arc<Pipeline>, GpuError> {
        let key = op.pipeline_key();
        if let Some(pipeline) = self.lock().get(&key) {
            return Ok(Arc::clone(pipeline));
        }
        let mut shader = op.shader();
        for edit in self.edits().iter().filter(|edit| edit.kernel == op.kernel()) {
            shader.replace(&edit.from, &edit.to);
        }
        let pipeline = Arc::new(Pipeline::compile(gpu, op, shader).await?);
        Made::add(&gpu.made.pipelines);
        self.lock().insert(key, Arc::clone(&pipeline));
        Ok(pipeline)
    }
}

impl Pipeline {
    async fn compile(gpu: &Gpu, op: &dyn Op, shader: Shader) -> Result<Self, GpuError> {
        let (device, driver) = (&gpu.device, lock(&gpu.pipelines.driver).clone());
        let name = op.kernel();
        tracing::debug!(kernel = name, variant = op.variant(), "compile");
        let entry = |binding, ty, has_dynamic_offset, min_binding_size| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size },
            count: None,
        };
        let params = NonZeroU64::new((op.params().len() + FIRST_BYTES) as u64);
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true, params)];
        for (binding, number) in op.bindings().iter().filter(|b| b.present).zip(1..) {
            let read_only = binding.access == Access::Read;
            entries.push(entry(number, wgpu::BufferBindingType::Storage { read_only }, false, None));
        }

        let ((compute, layout), caught) = caught(device, || {
            let module = wgpu::ShaderModuleDescriptor {
                label: Some(name),
                source: wgpu::ShaderSource::Wgsl(shader.text.as_str().into()),
            };
            let module = if gpu.pipelines.unchecked.load(Ordering::Relaxed) {
                // SAFETY: who has left the checks out answers for the kernels.
                #[allow(unsafe_code)]
                unsafe {
                    device.create_shader_module_trusted(module, wgpu::ShaderRuntimeChecks::unchecked())
                }
            } else {
                device.create_shader_module(module)
            };
            let layout = device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let compute = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                // Every kernel writes workgroup memory before it reads it; zeroing it costs a serial loop on Metal and DX12.
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: driver.as_ref(),
            });
            (compute, layout)
        });
        match caught.error().await {
            Some(error) => Err(GpuError::Shader {
                kernel: name,
                variant: op.variant(),
                adapter: device.adapter_info().name,
                message: shader.locate(&error.to_string()),
            }),
            None => Ok(Self { compute, layout }),
        }
    }
}
