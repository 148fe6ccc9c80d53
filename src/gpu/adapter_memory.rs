//! The memory of an adapter, which wgpu does not report.

/// Returns the bytes that the API under wgpu reports: see [`super::Adapter::memory_bytes`].
pub(super) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", windows))]
    if let Some(bytes) = vulkan(adapter) {
        return Some(bytes);
    }
    #[cfg(windows)]
    if let Some(bytes) = dx12(adapter) {
        return Some(bytes);
    }
    #[cfg(target_vendor = "apple")]
    if let Some(bytes) = metal(adapter) {
        return Some(bytes);
    }
    let _ = adapter;
    None
}

/// Returns the size of the largest device-local heap.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", windows))]
fn vulkan(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the guard's adapter is only queried for properties, and nothing of it is destroyed.
    #[allow(unsafe_code)]
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device is this instance's, and both live as long as the guard.
    #[allow(unsafe_code)]
    let memory = unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    // VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    heaps.filter(|heap| heap.flags.as_raw() & 1 != 0).map(|heap| heap.size).max()
}

/// Returns the budget of this process in device-local memory.
#[cfg(windows)]
fn dx12(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the guard's adapter is only queried for its memory, and nothing of it is destroyed.
    #[allow(unsafe_code)]
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Dx12>() }?;
    // The default is 0, DXGI_MEMORY_SEGMENT_GROUP_LOCAL.
    let memory = adapter.raw_adapter().query_video_memory_info(Default::default()).ok()?;
    Some(memory.Budget)
}

/// Returns the working set that Metal recommends at most.
#[cfg(target_vendor = "apple")]
fn metal(adapter: &wgpu::Adapter) -> Option<u64> {
    use objc2_metal::MTLDevice;

    // SAFETY: the guard's adapter is only queried for its memory, and nothing of it is destroyed.
    #[allow(unsafe_code)]
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Metal>() }?;
    // Zero if it is unknown.
    Some(adapter.raw_device().recommendedMaxWorkingSetSize()).filter(|bytes| *bytes > 0)
}
