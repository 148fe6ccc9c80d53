//! Compiled kernels. Each is compiled once per device.

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
    task::{self, Poll, Waker},
};

use super::{
    Access, Fragment, GpuError, Op, PipelineKey, Shader,
    context::{Context, lock},
    error_scope::caught,
    source::FIRST_WORKGROUP_BYTES,
};

/// A compiled kernel variant and the layout of its bindings.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) compute: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// The pipelines of one device.
#[derive(Debug, Default)]
pub(super) struct Pipelines {
    compiled: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    /// Whether shaders are compiled without wgpu's bounds checks and loop limits.
    unchecked: AtomicBool,
    /// A fragment of the shaders that are compiled from now on, and what replaces it.
    replacement: Mutex<Option<[Fragment; 2]>>,
    /// The driver's cache, if the application keeps it between runs.
    pub(super) driver_cache: Mutex<Option<wgpu::PipelineCache>>,
}

impl Pipelines {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PipelineKey, Arc<Pipeline>>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves wgpu's checks out of the shaders that are compiled from now on.
    #[cfg(any(feature = "cli", feature = "test-util"))]
    pub(super) fn leave_out_checks(&self) {
        self.unchecked.store(true, Ordering::Relaxed);
    }

    /// Replaces a fragment by another one in the shaders that are compiled from now on.
    pub(super) fn replace(&self, old: Fragment, new: Fragment) {
        *lock(&self.replacement) = Some([old, new]);
    }

    /// Compiles the pipelines of `ops` that are missing: natively on several threads, while the caller's thread waits. Calls
    /// `progress` with the number of those compiled so far, and of all that were missing.
    pub(super) async fn compile(
        &self,
        context: &Context,
        ops: impl Iterator<Item = &dyn Op>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<(), GpuError> {
        let mut seen: HashSet<_> = self.lock().keys().cloned().collect();
        let missing: Vec<_> = ops.filter(|op| seen.insert(op.pipeline_key())).collect();
        #[cfg(not(target_arch = "wasm32"))]
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        #[cfg(target_arch = "wasm32")]
        let at_once = 1;
        let mut done = 0;
        for ops in missing.chunks(at_once) {
            #[cfg(not(target_arch = "wasm32"))]
            self.compile_in_parallel(context, ops);
            // The rest, and those that failed, for their error.
            for op in ops {
                self.get(context, *op).await?;
            }
            done += ops.len();
            progress(done, missing.len());
        }
        Ok(())
    }

    /// Compiles ops on several threads, including the caller's. Skips those that fail. Uses fewer threads if the system has
    /// none to spare.
    #[cfg(not(target_arch = "wasm32"))]
    fn compile_in_parallel(&self, context: &Context, ops: &[&dyn Op]) {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(op) = ops.get(next.fetch_add(1, Ordering::Relaxed)) {
                // Natively the future is ready at once.
                let mut task = task::Context::from_waker(Waker::noop());
                if !matches!(pin!(self.get(context, *op)).poll(&mut task), Poll::Ready(Ok(_))) {
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

    /// Returns the pipeline of `op`, and compiles it first if it is missing.
    pub(super) async fn get(&self, context: &Context, op: &dyn Op) -> Result<Arc<Pipeline>, GpuError> {
        let key = op.pipeline_key();
        if let Some(pipeline) = self.lock().get(&key) {
            return Ok(Arc::clone(pipeline));
        }
        let replacement = *lock(&self.replacement);
        let mut shader = op.shader_with(replacement);
        context.hooks.edit(op.kernel(), &mut shader);
        let pipeline = Arc::new(self.compile_shader(context, op, shader).await?);
        context.counters.pipelines.add(1);
        self.lock().insert(key, Arc::clone(&pipeline));
        Ok(pipeline)
    }

    async fn compile_shader(&self, context: &Context, op: &dyn Op, shader: Shader) -> Result<Pipeline, GpuError> {
        let (device, driver_cache) = (&context.device, lock(&self.driver_cache).clone());
        let name = op.kernel();
        tracing::debug!(kernel = name, variant = op.variant(), "compile");
        let entry = |binding, ty, has_dynamic_offset, min_binding_size| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size },
            count: None,
        };
        let params = NonZeroU64::new((op.params().len() + FIRST_WORKGROUP_BYTES) as u64);
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
            let module = if self.unchecked.load(Ordering::Relaxed) {
                // SAFETY: the caller of `Device::leave_out_shader_checks` guarantees that kernels need no checks.
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
                // Every kernel writes workgroup memory before it reads it. Zeroing costs a serial loop on Metal and DX12.
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: driver_cache.as_ref(),
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
            None => Ok(Pipeline { compute, layout }),
        }
    }
}
