//! The driver's pipeline cache, as bytes that the application keeps between runs.

use super::{
    Device,
    context::{Context, lock},
    error_scope::caught,
};

/// The first bytes of every record. The last is the version of the format.
const MAGIC: [u8; 8] = *b"FERRUMP\x01";

impl Device {
    /// Returns what the driver has compiled so far, for [`Device::restore_pipelines`] on a later device of the same adapter,
    /// driver and version of this library. At most some megabytes. `None` if the driver has no such cache, or before
    /// `restore_pipelines` has turned it on.
    pub fn compiled_pipelines(&self) -> Option<Vec<u8>> {
        let data = lock(&self.gpu()?.pipelines.driver_cache).as_ref()?.get_data()?;
        Some(encode(&self.fingerprint(), &data))
    }

    /// Turns the driver's cache on, with the contents that [`Device::compiled_pipelines`] returned in an earlier run. Returns
    /// whether `saved` is used: it is not if it is damaged, empty, or of another adapter, driver or version.
    ///
    /// A checksum finds accidental damage only. The bytes go to the driver, so that nobody else should be able to write the
    /// place where they are stored.
    pub fn restore_pipelines(&self, saved: &[u8]) -> bool {
        let Some(gpu) = self.gpu().filter(|gpu| gpu.context.device.features().contains(wgpu::Features::PIPELINE_CACHE))
        else {
            return false;
        };
        let data = decode(&self.fingerprint(), saved);
        let cache = driver_cache(&gpu.context, data).or_else(|| driver_cache(&gpu.context, None));
        let used = data.is_some() && cache.is_some();
        *lock(&gpu.pipelines.driver_cache) = cache;
        used
    }
}

fn driver_cache(context: &Context, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("ferrum-wgpu"), data, fallback: true };
    // SAFETY: `data` came from `get_data`, as far as a checksum can tell. wgpu compares adapter and driver.
    #[allow(unsafe_code)]
    let (cache, caught) = caught(&context.device, || unsafe { context.device.create_pipeline_cache(&descriptor) });
    matches!(caught.error_now(), Ok(None)).then_some(cache)
}

/// Returns a record of `data`: magic, checksum of the rest, length of `fingerprint`, `fingerprint`, `data`.
fn encode(fingerprint: &str, data: &[u8]) -> Vec<u8> {
    let mut body = (fingerprint.len() as u32).to_le_bytes().to_vec();
    body.extend_from_slice(fingerprint.as_bytes());
    body.extend_from_slice(data);
    [&MAGIC[..], &checksum(&body).to_le_bytes(), &body].concat()
}

/// Returns the data of a record, if it is undamaged and has the same fingerprint.
fn decode<'a>(fingerprint: &str, record: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, body) = record.strip_prefix(&MAGIC)?.split_first_chunk()?;
    if u64::from_le_bytes(*sum) != checksum(body) {
        return None;
    }
    let (len, rest) = body.split_first_chunk()?;
    let (recorded, data) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    (recorded == fingerprint.as_bytes() && !data.is_empty()).then_some(data)
}

/// Returns the FNV-1a hash.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_decoded_if_undamaged_and_of_the_same_device() {
        let record = encode("a device", b"compiled");
        assert_eq!(decode("a device", &record), Some(&b"compiled"[..]));
        assert_eq!(decode("another", &record), None);
        assert_eq!(decode("a device", &encode("a device", b"")), None);
        for len in 0..record.len() {
            assert_eq!(decode("a device", &record[..len]), None, "{len}");
        }
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode("a device", &damaged), None, "{at}");
        }
    }
}
