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

/// Returns the free bytes of the device-local heap that has most: its budget for this process less what the process uses
/// (`VK_EXT_memory_budget`), or its size where the driver has no such extension.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", windows))]
fn vulkan(adapter: &wgpu::Adapter) -> Option<u64> {
    use ash::vk;

    // SAFETY: the guard's adapter is only queried for properties, and nothing of it is destroyed.
    #[allow(unsafe_code)]
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let (instance, device) = (adapter.shared_instance().raw_instance(), adapter.raw_physical_device());
    let budgets = adapter.physical_device_capabilities().supports_extension(vk::EXT_MEMORY_BUDGET_NAME)
        // The query is of Vulkan 1.1.
        && adapter.shared_instance().instance_api_version() >= vk::API_VERSION_1_1;
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let memory = if budgets {
        let mut properties = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: the physical device is this instance's, and both live as long as the guard. Both structures are valid, and
        // the extension of the second is supported.
        #[allow(unsafe_code)]
        unsafe {
            instance.get_physical_device_memory_properties2(device, &mut properties);
        }
        properties.memory_properties
    } else {
        // SAFETY: the physical device is this instance's, and both live as long as the guard.
        #[allow(unsafe_code)]
        unsafe {
            instance.get_physical_device_memory_properties(device)
        }
    };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize).enumerate();
    heaps
        .filter(|(_, heap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL))
        .map(|(i, heap)| match budgets {
            true => free(heap.size, budget.heap_budget[i], budget.heap_usage[i]),
            false => heap.size,
        })
        .max()
}

/// Returns the free bytes of a heap. Some drivers report a budget above the heap's size; 0 is no budget.
#[cfg_attr(not(any(target_os = "linux", target_os = "android", target_os = "freebsd", windows)), allow(dead_code))]
fn free(size: u64, budget: u64, used: u64) -> u64 {
    match budget {
        0 => size,
        budget => budget.min(size).saturating_sub(used),
    }
}

/// Returns the budget of this process in device-local memory, less what it uses.
#[cfg(windows)]
fn dx12(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the guard's adapter is only queried for its memory, and nothing of it is destroyed.
    #[allow(unsafe_code)]
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Dx12>() }?;
    // The default is 0, DXGI_MEMORY_SEGMENT_GROUP_LOCAL.
    let memory = adapter.raw_adapter().query_video_memory_info(Default::default()).ok()?;
    Some(memory.Budget.saturating_sub(memory.CurrentUsage))
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

#[cfg(test)]
mod tests {
    use super::free;

    #[test]
    fn free_memory_is_the_budget_less_the_usage_within_the_heap() {
        const GIB: u64 = 1 << 30;
        assert_eq!(free(8 * GIB, 7 * GIB, GIB), 6 * GIB);
        // A driver that reports more than there is, one that reports nothing, and a process above its budget.
        assert_eq!(free(8 * GIB, 12 * GIB, GIB), 7 * GIB);
        assert_eq!(free(8 * GIB, 0, 0), 8 * GIB);
        assert_eq!(free(8 * GIB, GIB, 2 * GIB), 0);
    }
}
