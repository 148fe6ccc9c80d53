//! How much memory an adapter has, which wgpu does not tell.

/// Bytes of the largest heap of the device's own memory; `None` where the API under wgpu does not say.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", windows))]
pub(super) fn largest(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: what is returned is only asked for properties while the guard lives, and nothing of it is destroyed.
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

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd", windows)))]
pub(super) fn largest(_: &wgpu::Adapter) -> Option<u64> {
    None
}
