//! Typed buffers, on the GPU or in host memory.

use std::{
    marker::PhantomData,
    sync::{Arc, RwLock, atomic::AtomicBool},
};

use bytemuck::Pod;

use super::{Device, GpuError, driver::Gpu};

/// A type that a storage buffer can be an array of, with its WGSL name. Sizes are multiples of four bytes.
pub trait Element: Pod + Send + Sync {
    /// The type's name in WGSL.
    const WGSL: &'static str;
}

macro_rules! elements {
    ($($rust:ty => $wgsl:literal),* $(,)?) => { $(impl Element for $rust { const WGSL: &'static str = $wgsl; })* };
}
elements! {
    f32 => "f32",
    u32 => "u32",
    [f32; 2] => "vec2<f32>",
    [f32; 4] => "vec4<f32>",
    [u32; 2] => "vec2<u32>",
    [u32; 4] => "vec4<u32>",
}

/// An array of `T` in the memory of one [`Device`](super::Device). Clones share it.
#[derive(Debug)]
pub struct Buffer<T> {
    pub(crate) raw: Arc<RawBuffer>,
    element: PhantomData<fn() -> T>,
}

/// A buffer without its element type, as plans keep it.
#[derive(Debug)]
pub struct RawBuffer {
    /// Unique among the buffers of a device.
    pub(crate) id: u64,
    /// Its device's.
    pub(crate) identity: Identity,
    pub(crate) label: String,
    pub(crate) bytes: u64,
    pub(crate) storage: Storage,
    /// What is written goes straight to its memory, until it is [sealed](Device::seal).
    pub(super) mapped: AtomicBool,
}

/// What tells devices apart. wgpu does not where they are of two instances: it takes the one's buffers for others of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity(Arc<()>);

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Where a buffer's words are.
#[derive(Debug)]
pub(crate) enum Storage {
    Gpu(wgpu::Buffer),
    Host(RwLock<Vec<u32>>),
    /// Of a [`Device::outline`](super::Device).
    Outline,
}

impl RawBuffer {
    /// The memory of a GPU's buffer.
    pub(crate) fn on_gpu(&self) -> Result<&wgpu::Buffer, GpuError> {
        match &self.storage {
            Storage::Gpu(storage) => Ok(storage),
            Storage::Host(_) | Storage::Outline => Err(self.foreign()),
        }
    }

    /// What is said of it where another device's buffer should be.
    pub(crate) fn foreign(&self) -> GpuError {
        GpuError::OutOfRange { what: "a binding", buffer: self.label.clone() }
    }
}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self { raw: Arc::clone(&self.raw), element: PhantomData }
    }
}

impl<T: Element> Buffer<T> {
    pub(crate) fn new(raw: RawBuffer) -> Self {
        Self { raw: Arc::new(raw), element: PhantomData }
    }

    /// A GPU's buffer that no dispatch binds, and no limit on bindings is about.
    pub(crate) async fn unbound(
        (device, gpu): (&Device, &Gpu),
        label: &str,
        len: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Self, GpuError> {
        let bytes = len.max(1).saturating_mul(size_of::<T>() as u64);
        let storage = Storage::Gpu(gpu.buffer(label, bytes, usage).await?);
        let (identity, mapped) = (device.identity().clone(), AtomicBool::new(false));
        Ok(Self::new(RawBuffer { id: u64::MAX, identity, label: label.to_owned(), bytes, storage, mapped }))
    }

    /// The array in a buffer of a plan.
    pub(crate) fn of(raw: &Arc<RawBuffer>) -> Self {
        Self { raw: Arc::clone(raw), element: PhantomData }
    }

    /// The number of whole elements.
    pub fn len(&self) -> u64 {
        self.raw.bytes / size_of::<T>() as u64
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.raw.bytes
    }

    /// The same memory as an array of another type; a tail that is no whole element is out of reach.
    pub fn cast<U: Element>(&self) -> Buffer<U> {
        Buffer { raw: Arc::clone(&self.raw), element: PhantomData }
    }
}
