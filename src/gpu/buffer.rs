//! Typed buffers, on the GPU or in host memory.

use std::{
    marker::PhantomData,
    sync::{Arc, RwLock, atomic::AtomicBool},
};

use bytemuck::Pod;

use super::GpuError;

/// An element type of storage buffers. Its size is a multiple of four bytes.
pub trait Element: Pod + Send + Sync {
    /// The WGSL name of the type.
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

/// An array of `T` in the memory of a [`Device`](super::Device). Clones share it.
#[derive(Debug)]
pub struct Buffer<T> {
    pub(crate) raw: Arc<RawBuffer>,
    element: PhantomData<fn() -> T>,
}

/// A buffer without its element type, as plans have it.
#[derive(Debug)]
pub struct RawBuffer {
    /// Unique among the buffers of a device.
    pub(crate) id: u64,
    /// The identity of its device.
    pub(super) identity: Identity,
    pub(crate) label: String,
    pub(crate) bytes: u64,
    pub(crate) storage: Storage,
    /// Writes go straight to its memory, until it is unmapped.
    pub(super) mapped: AtomicBool,
}

/// The identity of a device. wgpu does not tell devices of two instances apart: it takes buffers of one for its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity(Arc<()>);

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The memory of a buffer.
#[derive(Debug)]
pub(crate) enum Storage {
    Gpu(wgpu::Buffer),
    Host(RwLock<Vec<u32>>),
    /// None: the buffer is of a dry run.
    DryRun,
}

impl RawBuffer {
    /// Returns the wgpu buffer of a GPU's buffer.
    pub(crate) fn on_gpu(&self) -> Result<&wgpu::Buffer, GpuError> {
        match &self.storage {
            Storage::Gpu(storage) => Ok(storage),
            Storage::Host(_) | Storage::DryRun => Err(self.foreign()),
        }
    }

    /// Returns the error for a buffer of another device.
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

    /// Wraps a buffer of a plan.
    pub(crate) fn of(raw: &Arc<RawBuffer>) -> Self {
        Self { raw: Arc::clone(raw), element: PhantomData }
    }

    /// Returns the number of whole elements.
    pub fn len(&self) -> u64 {
        self.raw.bytes / size_of::<T>() as u64
    }

    /// Returns whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.raw.bytes
    }

    /// Returns the same memory as an array of another type, without an incomplete last element.
    pub fn cast<U: Element>(&self) -> Buffer<U> {
        Buffer { raw: Arc::clone(&self.raw), element: PhantomData }
    }
}
