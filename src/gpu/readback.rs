//! Buffers read back to the host.

use std::sync::PoisonError;

use super::{Buffer, Device, Element, GpuError, buffer::Storage, device::Gpu, program::foreign};

/// Reads buffers back through one staging buffer that is made once.
#[derive(Debug)]
pub struct Readback {
    staging: Option<wgpu::Buffer>,
    bytes: u64,
}

impl Readback {
    /// A reader of up to `len` elements of `T` at a time.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    pub async fn new<T: Element>(device: &Device, len: u64) -> Result<Self, GpuError> {
        let bytes = len.max(1) * size_of::<T>() as u64;
        let staging = match device.gpu() {
            Some(gpu) => {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                Some(gpu.buffer("readback", bytes, usage).await?)
            }
            None => None,
        };
        Ok(Self { staging, bytes })
    }

    /// The first `len` elements of `buffer`, after all that was submitted before.
    ///
    /// # Errors
    /// [`GpuError::OutOfRange`] when there are fewer or this reader is too small; [`GpuError::Lost`].
    pub async fn read<T: Element>(&self, device: &Device, buffer: &Buffer<T>, len: u64) -> Result<Vec<T>, GpuError> {
        let bytes = len.saturating_mul(size_of::<T>() as u64);
        let outside = || GpuError::OutOfRange { what: "a read", buffer: buffer.raw.label.clone() };
        if bytes > buffer.raw.bytes || bytes > self.bytes {
            return Err(outside());
        }
        let words = match (&buffer.raw.storage, &self.staging, device.gpu()) {
            (Storage::Host(memory), ..) => {
                let memory = memory.read().unwrap_or_else(PoisonError::into_inner);
                memory.get(..bytes as usize / 4).ok_or_else(outside)?.to_vec()
            }
            (Storage::Gpu(source), Some(staging), Some(gpu)) => read_words(gpu, source, staging, bytes).await?,
            _ => return Err(foreign(&buffer.raw)),
        };
        Ok(bytemuck::cast_slice(&words).to_vec())
    }
}

async fn read_words(
    gpu: &Gpu,
    source: &wgpu::Buffer,
    staging: &wgpu::Buffer,
    bytes: u64,
) -> Result<Vec<u32>, GpuError> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(source, 0, staging, 0, bytes);
    gpu.queue.submit([encoder.finish()]);
    let (sender, receiver) = futures_channel::oneshot::channel();
    staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
        let _ = sender.send(result);
    });
    gpu.finish(receiver).await?.map_err(|error| GpuError::Lost(error.to_string()))?;
    let lost = |error: wgpu::MapRangeError| GpuError::Lost(error.to_string());
    let words = bytemuck::pod_collect_to_vec(&staging.get_mapped_range(0..bytes).map_err(lost)?);
    staging.unmap();
    Ok(words)
}
