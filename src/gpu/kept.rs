//! What a driver has compiled, as bytes that the application keeps between runs.

use super::{
    Device,
    driver::{Gpu, lock},
    error_scope::caught,
};

/// Begins every record; the last byte is the record's version.
const MAGIC: [u8; 8] = *b"FERRUMP\x01";

impl Device {
    /// What the driver has compiled until now, for [`Device::restore_pipelines`] on a later device of the same adapter, driver
    /// and version of this library. Some megabytes at most; `None` where drivers do not give it away, or before
    /// `restore_pipelines` has asked them to keep it.
    pub fn compiled_pipelines(&self) -> Option<Vec<u8>> {
        let data = lock(&self.gpu()?.pipelines.driver).as_ref()?.get_data()?;
        Some(seal(&self.fingerprint(), &data))
    }

    /// Has the driver keep what it compiles from now on, beginning with what [`Device::compiled_pipelines`] gave before.
    /// Says whether `kept` is used: what is damaged, of another adapter, driver or version, or empty, is not.
    ///
    /// Damage is found by a checksum, which protects from accidents only: as the bytes go to the driver, nobody else should
    /// be able to write where they are kept.
    pub fn restore_pipelines(&self, kept: &[u8]) -> bool {
        let Some(gpu) = self.gpu().filter(|gpu| gpu.device.features().contains(wgpu::Features::PIPELINE_CACHE)) else {
            return false;
        };
        let data = open(&self.fingerprint(), kept);
        let cache = driver_cache(gpu, data).or_else(|| driver_cache(gpu, None));
        let used = data.is_some() && cache.is_some();
        *lock(&gpu.pipelines.driver) = cache;
        used
    }
}

fn driver_cache(gpu: &Gpu, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("ferrum-wgpu"), data, fallback: true };
    // SAFETY: data are what `get_data` gave, as far as a checksum can tell; wgpu compares adapter and driver.
    #[allow(unsafe_code)]
    let (cache, caught) = caught(&gpu.device, || unsafe { gpu.device.create_pipeline_cache(&descriptor) });
    matches!(caught.error_now(), Ok(None)).then_some(cache)
}

/// `data` with what tells later whether they are still good: magic, checksum, then what the checksum is of: the length of
/// `of`, `of`, and `data`.
fn seal(of: &str, data: &[u8]) -> Vec<u8> {
    let mut body = (of.len() as u32).to_le_bytes().to_vec();
    body.extend_from_slice(of.as_bytes());
    body.extend_from_slice(data);
    [&MAGIC[..], &checksum(&body).to_le_bytes(), &body].concat()
}

/// The data that were sealed, if they are whole and `of` is the same.
fn open<'a>(of: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, body) = sealed.strip_prefix(&MAGIC)?.split_first_chunk()?;
    if u64::from_le_bytes(*sum) != checksum(body) {
        return None;
    }
    let (len, rest) = body.split_first_chunk()?;
    let (sealed_of, data) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    (sealed_of == of.as_bytes() && !data.is_empty()).then_some(data)
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_whole_and_of_the_same_device_is_taken() {
        let sealed = seal("a device", b"compiled");
        assert_eq!(open("a device", &sealed), Some(&b"compiled"[..]));
        assert_eq!(open("another", &sealed), None);
        assert_eq!(open("a device", &seal("a device", b"")), None);
        for len in 0..sealed.len() {
            assert_eq!(open("a device", &sealed[..len]), None, "{len}");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 0x10;
            assert_eq!(open("a device", &damaged), None, "{at}");
        }
    }
}
