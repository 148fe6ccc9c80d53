//! The models of a repository, and which of them fit a device.

use ferrum_wgpu::{Adapter, block_on};

use super::super::output::{printable, size, table};
use super::download::RemoteFile;
use super::name::{Name, Wanted, part_of, quant_of};

/// A model of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its quantization.
    quant: String,
    /// Its first file.
    file: String,
    /// The bytes of all parts.
    bytes: u64,
}

impl Offer {
    /// Returns an estimate of the device memory that it needs: the file's size, and a tenth of it for the KV cache and the
    /// buffers between kernels.
    fn memory(&self) -> u64 {
        self.bytes + self.bytes / 10
    }
}

/// Returns the memory of the first device in bytes, if it reports any.
pub fn device_memory() -> Option<u64> {
    block_on(Adapter::find(None)).ok()?.memory_bytes().map(|bytes| bytes - bytes / 16)
}

/// Returns the models of a repository that a name can mean, by size.
pub(super) fn offers(name: &Name, files: &[RemoteFile]) -> Vec<Offer> {
    let of = |file: &RemoteFile| {
        let path = file.path.as_str();
        let bytes = match part_of(path) {
            None => file.size,
            Some((base, 1, count)) => {
                let is_part =
                    |other: &&RemoteFile| part_of(&other.path).is_some_and(|of| of.0 == base && of.2 == count);
                files.iter().filter(is_part).map(|part| part.size).sum()
            }
            Some(_) => return None,
        };
        let quant = quant_of(path);
        let wanted = match &name.wanted {
            Wanted::Default => true,
            Wanted::Quant(wanted) => wanted.eq_ignore_ascii_case(quant),
            Wanted::File(wanted) => wanted == path,
        };
        (wanted && !path.contains("mmproj")).then(|| Offer { quant: quant.to_owned(), file: path.to_owned(), bytes })
    };
    let mut offers: Vec<Offer> = files.iter().filter_map(of).collect();
    offers.sort_by(|a, b| a.bytes.cmp(&b.bytes).then_with(|| a.file.cmp(&b.file)));
    offers
}

/// Returns the largest model that fits in `memory` bytes: the best one.
fn best(offers: &[Offer], memory: u64) -> Option<&Offer> {
    offers.iter().filter(|offer| offer.memory() <= memory).max_by_key(|offer| offer.bytes)
}

/// Returns the quantization of the model that fits best.
pub(super) fn best_quant(offers: &[Offer], memory: Option<u64>) -> Option<String> {
    best(offers, memory?).map(|offer| printable(&offer.quant))
}

/// Formats models with their sizes, and which fit in `memory` bytes of a device. The best is marked with a star.
pub fn listing(offers: &[Offer], memory: Option<u64>) -> String {
    let best = memory.and_then(|memory| best(offers, memory));
    let mut rows = vec![["", "QUANT", "SIZE", "DEVICE", "FILE"].map(str::to_owned)];
    rows.extend(offers.iter().map(|offer| {
        let fits = match memory {
            None => "unknown",
            Some(memory) if offer.memory() <= memory => "fits",
            Some(_) => "too large",
        };
        [
            if best == Some(offer) { "*" } else { "" }.to_owned(),
            printable(&offer.quant),
            size(offer.bytes),
            fits.to_owned(),
            printable(&offer.file),
        ]
    }));
    let explanation = match (memory, best) {
        (None, _) => "the device does not report its memory: --vram SIZE says what fits\n".to_owned(),
        (Some(memory), Some(_)) => format!("* the largest that fits in {} of device memory\n", size(memory)),
        (Some(memory), None) => {
            format!("none fits in {} of device memory; experts can be loaded from the file on demand\n", size(memory))
        }
    };
    table(&rows, &[2]) + &explanation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_fits_is_the_best() {
        let file = |path: &str, size| RemoteFile { path: path.to_owned(), size, sha256: None, blob: String::new() };
        let files = [
            file("m-Q8_0-00001-of-00002.gguf", 5 << 30),
            file("m-Q8_0-00002-of-00002.gguf", 4 << 30),
            file("m-Q4_K_M.gguf", 5 << 30),
            file("m-Q2_K.gguf", 2 << 30),
            file("mmproj-F16.gguf", 1 << 30),
        ];
        let all = offers(&Name::parse("a/b").expect("a name"), &files);
        assert_eq!(all.iter().map(|offer| offer.quant.as_str()).collect::<Vec<_>>(), ["Q2_K", "Q4_K_M", "Q8_0"]);
        assert_eq!(all[2].bytes, 9 << 30);
        for (memory, expected) in [(16, Some("Q8_0")), (8, Some("Q4_K_M")), (5, Some("Q2_K")), (1, None)] {
            assert_eq!(best_quant(&all, Some(memory << 30)).as_deref(), expected, "{memory} GiB");
        }
        assert_eq!(offers(&Name::parse("a/b:q2_k").expect("a name"), &files).len(), 1);
        let shown = listing(&all, Some(8 << 30));
        assert!(shown.lines().any(|line| line.contains("* ") && line.contains("Q4_K_M") && line.contains("fits")));
        assert!(shown.lines().any(|line| line.contains("Q8_0") && line.contains("too large")), "{shown}");
        assert!(listing(&all, None).contains("unknown"));
    }
}
