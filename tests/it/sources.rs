//! Models that are read in ranges: the same logits, a bounded window, typed errors.

use std::{error::Error, sync::atomic::Ordering};

use crate::common::{
    engines::{bits, engine, options, prompt},
    ranges::Ranges,
    tiny_model::{TinyModel, tiny_models},
};
use ferrum_wgpu::{
    Device, Gguf, GgufError, Model, ModelError,
    gguf::{FileSource, GgufWriter},
    low_level::{
        model::{DeviceProfile, KernelSelection, Precision},
        quant::WeightType,
    },
};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const WINDOW: u64 = 64 << 10;

/// Returns the logits of a prompt.
async fn logits(gguf: &Gguf, slots: Option<u32>) -> Result<Vec<u32>> {
    let device = Device::cpu();
    let model = match slots {
        None => Model::load(&device, gguf, |_, _| ()).await?,
        Some(slots) => Model::load_offloaded(&device, gguf, slots, |_, _| ()).await?,
    };
    let kernels = KernelSelection::select(&DeviceProfile::new(&device), Precision::Exact);
    let engine = engine(&model, &options(1, 64, kernels)).await;
    let mut session = engine.session();
    Ok(bits(&session.forward(&prompt(&model, 5, 1)).await?))
}

/// Returns a source of a file, which knows where tensor data begin.
fn ranges(bytes: Vec<u8>) -> Result<Ranges> {
    let whole = Gguf::from_bytes(bytes.clone())?;
    let data = whole.tensors().iter().map(|tensor| tensor.offset).min().ok_or("no tensors")?;
    Ok(Ranges { data, pending: 2, ..Ranges::new(bytes) })
}

#[test]
fn models_read_in_ranges_give_the_same_logits_within_the_window() -> Result {
    pollster::block_on(async {
        for (name, tiny) in tiny_models() {
            let bytes = tiny.to_bytes()?;
            let source = ranges(bytes.clone())?;
            let whole = Gguf::from_bytes(bytes)?;
            let asked = source.asked.clone();
            let streamed = Gguf::from_source(source).await?.read_window(WINDOW);
            assert!(!streamed.is_in_memory() && streamed.data(&streamed.tensors()[0]).is_empty());
            assert_eq!(streamed.tensors(), whole.tensors());
            let header = asked.bytes.swap(0, Ordering::Relaxed);
            assert_eq!(logits(&streamed, None).await?, logits(&whole, None).await?, "{name}");

            // A vector is read whole, and 16 rows of a matrix at least.
            let (row, vector) = whole.tensors().iter().fold((0, 0), |(row, vector), tensor| match tensor.shape.len() {
                1 => (row, tensor.bytes.max(vector)),
                _ => (row.max(tensor.bytes / tensor.rows()), vector.max(tensor.row_len() * 4 * 32)),
            });
            let [longest, most, read] =
                [&asked.longest, &asked.most, &asked.bytes].map(|count| count.load(Ordering::Relaxed));
            let bound = (2 * WINDOW / 8).max(2 * 16 * row).max(vector);
            assert!(longest > 0 && longest <= bound, "{name}: {longest} of {bound} bytes at once");
            assert!(most <= 2, "{name}: {most} reads at once");
            let tensors: u64 = whole.tensors().iter().map(|tensor| tensor.bytes).sum();
            assert!(read <= 2 * tensors + header, "{name}: {read} bytes of {tensors}");
        }
        Ok(())
    })
}

#[test]
fn experts_are_offloaded_from_a_source() -> Result {
    pollster::block_on(async {
        let tiny = TinyModel { experts: 8, top_k: 2, ..TinyModel::default() };
        let bytes = tiny.to_bytes()?;
        let streamed = Gguf::from_source(ranges(bytes.clone())?).await?.read_window(WINDOW);
        assert_eq!(logits(&streamed, Some(3)).await?, logits(&Gguf::from_bytes(bytes)?, None).await?);
        Ok(())
    })
}

#[test]
fn files_are_read_in_ranges_without_a_mapping() -> Result {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("ranges.gguf");
    std::fs::write(&path, TinyModel::default().to_bytes()?)?;
    let source = FileSource::open(&path)?;
    pollster::block_on(async {
        let streamed = Gguf::from_source(source).await?.read_window(WINDOW);
        assert_eq!(logits(&streamed, None).await?, logits(&Gguf::open(&path)?, None).await?);
        // Truncated while it is open.
        std::fs::File::options().write(true).open(&path)?.set_len(streamed.file_len() / 2)?;
        let error = Model::load(&Device::cpu(), &streamed, |_, _| ()).await.err();
        assert!(matches!(error, Some(ModelError::Gguf(GgufError::WrongRange { .. }))), "{error:?}");
        Ok(())
    })
}

#[test]
fn sources_that_fail_or_lie_give_typed_errors() -> Result {
    pollster::block_on(async {
        let bytes = TinyModel::default().to_bytes()?;
        let source = ranges(bytes.clone())?;
        Gguf::from_source(source.clone()).await?;
        let header_reads = source.asked.reads.swap(0, Ordering::Relaxed);
        let load = async |source: Ranges| {
            source.asked.reads.store(0, Ordering::Relaxed);
            let gguf = Gguf::from_source(source).await?.read_window(WINDOW);
            Model::load(&Device::cpu(), &gguf, |_, _| ()).await.map(|_| ())
        };
        for read in [0, header_reads, header_reads + 20] {
            let error = load(Ranges { fails_at: Some(read), ..source.clone() }).await.err();
            let Some(ModelError::Gguf(GgufError::Read { name, source, .. })) = &error else {
                panic!("{read}: {error:?}")
            };
            assert_eq!((name.as_str(), source.to_string()), (&*ranges_name(), "the connection was lost".to_owned()));
        }
        for (longer, longer_from) in [(-1, 0), (-1, header_reads), (1, 0), (5, header_reads + 3), (i64::MIN / 2, 2)] {
            let error = load(Ranges { longer, longer_from, ..source.clone() }).await.err();
            assert!(matches!(error, Some(ModelError::Gguf(GgufError::WrongRange { .. }))), "{longer}: {error:?}");
        }
        // A length that is not the file's.
        let len = bytes.len() as u64;
        for (len, refused) in [(len + 1, false), (len - 1, true), (len / 2, true), (20, true), (0, true)] {
            let error = load(Ranges { len, ..source.clone() }).await.err();
            assert_eq!(error.is_some(), refused, "{len}: {error:?}");
        }
        let longer = Ranges { len: 2 * len, bytes: bytes[..bytes.len() / 2].to_vec().into(), ..source.clone() };
        let error = load(longer).await.err();
        assert!(matches!(error, Some(ModelError::Gguf(GgufError::WrongRange { .. }))), "{error:?}");
        Ok(())
    })
}

fn ranges_name() -> String {
    use ferrum_wgpu::gguf::ByteSource;
    Ranges::new(Vec::new()).name()
}

#[test]
fn truncated_headers_have_the_errors_of_files_in_memory() -> Result {
    pollster::block_on(async {
        let bytes = TinyModel::default().to_bytes()?;
        let whole = Gguf::from_bytes(bytes.clone())?;
        let end = whole.tensors()[0].offset as usize;
        for len in (0..end).step_by(37).chain([bytes.len() - 1]) {
            let cut = bytes[..len].to_vec();
            let text = |result: std::result::Result<Gguf, GgufError>| result.err().map(|error| error.to_string());
            let in_memory = text(Gguf::from_bytes(cut.clone()));
            assert_eq!(text(Gguf::from_source(Ranges::new(cut)).await), in_memory, "{len}");
            assert!(in_memory.is_some(), "{len}");
        }
        Ok(())
    })
}

#[test]
fn long_headers_are_read_in_growing_ranges() -> Result {
    pollster::block_on(async {
        let mut writer = GgufWriter::new();
        let tokens: Vec<String> = (0..200_000).map(|i| format!("token {i}")).collect();
        writer.metadata("general.architecture", "llama").metadata("tokens", tokens);
        writer.tensor("t", WeightType::F32, &[4], vec![7; 16]);
        let bytes = writer.to_bytes()?;
        let source = Ranges::new(bytes);
        let asked = source.asked.clone();
        let gguf = Gguf::from_source(source).await?;
        assert_eq!(gguf.metadata().strings("tokens")?.map(<[String]>::len), Some(200_000));
        assert_eq!(&*gguf.read_data(&gguf.tensors()[0], 4..1000).await?, &[7; 12]);
        let reads = asked.reads.load(Ordering::Relaxed);
        assert!((3..10).contains(&reads), "{reads}");

        // An array that would not fit into the budget is refused before it is read.
        let mut header = b"GGUF".to_vec();
        header.extend([3_u32.to_le_bytes().as_slice(), &[0; 8], &1_u64.to_le_bytes()].concat());
        header.extend([&1_u64.to_le_bytes()[..], b"k", &9_u32.to_le_bytes(), &0_u32.to_le_bytes()].concat());
        header.extend((1_u64 << 40).to_le_bytes());
        header.resize(100_000, 0);
        let source = Ranges { len: 1 << 41, ..Ranges::new(header) };
        let asked = source.asked.clone();
        let error = Gguf::from_source(source).await.err();
        assert!(matches!(error, Some(GgufError::Budget { .. })), "{error:?}");
        assert_eq!(asked.bytes.load(Ordering::Relaxed), 64 << 10);
        Ok(())
    })
}

fn part(number: u16, count: u16, tensor: &str) -> std::result::Result<Vec<u8>, GgufError> {
    let mut file = GgufWriter::new();
    file.metadata("split.no", number).metadata("split.count", count);
    file.tensor(tensor, WeightType::F32, &[4], vec![tensor.len() as u8; 16]);
    file.to_bytes()
}

#[test]
fn split_models_are_opened_by_their_sources() -> Result {
    pollster::block_on(async {
        let parts = |tensors: &[(u16, &str)]| -> Result<Vec<Ranges>> {
            tensors.iter().map(|(number, tensor)| Ok(Ranges::new(part(*number, 3, tensor)?))).collect()
        };
        let all = [(0, "a"), (1, "bb"), (2, "ccc")];
        let gguf = Gguf::from_sources(parts(&all)?).await?;
        assert_eq!((gguf.parts(), gguf.tensors().len()), (3, 3));
        for tensor in gguf.tensors() {
            let bytes = gguf.read_data(tensor, 0..tensor.bytes).await?;
            assert_eq!(*bytes, vec![tensor.name.len() as u8; 16]);
        }
        for (wrong, reason) in [
            (&all[..2], "only 2 of the parts were given"),
            (&[all[0], all[2], all[1]], "the file says that it is part 3 of 3"),
            (&[all[0], all[1], all[2], all[2]], "more than the first part says"),
            (&all[1..], "this is part 2 of 3"),
            (&[], "not a GGUF file"),
        ] {
            let error = Gguf::from_sources(parts(wrong)?).await.err().ok_or("no error")?.to_string();
            assert!(error.contains(reason), "{error}");
        }
        Ok(())
    })
}
