//! Models that are read in ranges: the same logits, a bounded window, typed errors.

use std::{
    borrow::Cow,
    error::Error,
    io,
    ops::Range,
    sync::{Arc, Mutex, atomic::Ordering},
};

use crate::common::{
    engines::{bits, engine, options, prompt},
    ranges::Ranges,
    tiny_model::{TinyModel, tiny_models},
};
use ferrum_wgpu::{
    Device, Gguf, GgufError, Model, ModelError,
    gguf::{ByteSource, FileSource, GgufWriter, ReadFuture},
    low_level::{
        model::{DeviceProfile, KernelSelection, Precision},
        quant::{Rng, WeightType},
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

/// Returns sources of the same bytes: in memory, mapped, read from a file, and in ranges.
async fn all_sources(bytes: &[u8], name: &str) -> Result<Vec<(&'static str, Gguf)>> {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes)?;
    let file = Gguf::from_source(FileSource::open(&path)?).await?;
    let mapped = Gguf::open(&path)?;
    // The mapping outlives the file's name.
    #[cfg(unix)]
    std::fs::remove_file(&path)?;
    let pending = Ranges { pending: 1, ..Ranges::new(bytes.to_vec()) };
    Ok(vec![
        ("memory", Gguf::from_source(bytes.to_vec()).await?),
        ("a mapping", mapped),
        ("a file", file),
        ("ranges", Gguf::from_source(pending).await?),
        ("an Arc", Gguf::from_source(Arc::new(Ranges::new(bytes.to_vec()))).await?),
    ])
}

/// Returns a random range, which may be empty or end beyond `len`.
fn random_range(rng: &mut Rng, len: u64) -> Range<u64> {
    let around = u32::try_from(len + len / 8 + 2).unwrap_or(u32::MAX);
    match rng.below(20) {
        0 => u64::from(rng.below(around))..u64::MAX,
        1 => rng.next_u64()..rng.next_u64(),
        _ => {
            let [a, b] = [rng.below(around), rng.below(around)].map(u64::from);
            a.min(b)..a.max(b)
        }
    }
}

#[test]
fn random_ranges_are_those_of_memory() -> Result {
    pollster::block_on(async {
        let mut rng = Rng::new(1);
        let mut bytes_read = 0;
        for (seed, tiny) in
            [TinyModel::default(), TinyModel { big: WeightType::Q8_0, ..TinyModel::default() }].into_iter().enumerate()
        {
            let bytes = TinyModel { seed: seed as u64 + 1, ..tiny }.to_bytes()?;
            for (name, gguf) in all_sources(&bytes, &format!("random-ranges-{seed}.gguf")).await? {
                for _ in 0..400 {
                    let tensor = &gguf.tensors()[rng.below(gguf.tensors().len() as u32) as usize];
                    let range = random_range(&mut rng, tensor.bytes);
                    let found = gguf.read_data(tensor, range.clone()).await?;
                    let [start, end] =
                        [range.start, range.end].map(|at| (tensor.offset + at.min(tensor.bytes)) as usize);
                    assert_eq!(*found, bytes[start..end.max(start)], "{name}, {}: {range:?}", tensor.name);
                    bytes_read += found.len();
                }
            }
            // Sources themselves, with ranges that `Gguf` would not ask for.
            let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("random-ranges-file-{seed}"));
            std::fs::write(&path, &bytes)?;
            let file = FileSource::open(&path)?;
            let sources: [&dyn ByteSource; 3] = [&bytes, &file, &Arc::new(bytes.clone())];
            for source in sources {
                assert_eq!(source.byte_len(), bytes.len() as u64);
                for _ in 0..400 {
                    let range = random_range(&mut rng, source.byte_len());
                    let found = source.read(range.clone()).await.ok();
                    let inside = range.end <= source.byte_len() && range.start <= range.end;
                    let wanted = inside.then(|| &bytes[range.start as usize..range.end as usize]);
                    // A range that ends before it begins is empty or an error.
                    if range.start <= range.end || found.as_ref().is_some_and(|found| !found.is_empty()) {
                        assert_eq!(found.as_deref(), wanted, "{}: {range:?}", source.name());
                    }
                }
            }
        }
        assert!(bytes_read > 1 << 20, "{bytes_read}");
        Ok(())
    })
}

/// What a read of a [`Faulty`] source gives instead of its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Error,
    Shorter,
    Longer,
    Empty,
}

/// A source of which some reads fail, and the first fault.
struct Faulty {
    bytes: Vec<u8>,
    /// The length that it says it has, each time another one if `unsteady`.
    len: u64,
    unsteady: bool,
    /// One read of so many fails; 0 for none.
    one_of: u32,
    rng: Mutex<Rng>,
    first: Arc<Mutex<Option<Fault>>>,
}

impl ByteSource for Faulty {
    fn name(&self) -> String {
        "a faulty source".to_owned()
    }

    fn byte_len(&self) -> u64 {
        if self.unsteady { self.len.wrapping_add(self.rng.lock().unwrap().next_u64() % 4096) } else { self.len }
    }

    fn read(&self, range: Range<u64>) -> ReadFuture<'_> {
        assert!(range.start < range.end && (self.unsteady || range.end <= self.len), "{range:?} of {}", self.len);
        assert!(range.end - range.start <= self.bytes.len() as u64 + (64 << 10), "{range:?}");
        let end = (range.end as usize).min(self.bytes.len());
        let mut bytes = self.bytes[(range.start as usize).min(end)..end].to_vec();
        let mut rng = self.rng.lock().unwrap();
        if self.one_of == 0 || rng.below(self.one_of) > 0 {
            return Box::pin(std::future::ready(Ok(Cow::Owned(bytes))));
        }
        let fault = [Fault::Error, Fault::Shorter, Fault::Longer, Fault::Empty][rng.below(4) as usize];
        match fault {
            Fault::Error => (),
            Fault::Shorter => bytes.truncate(rng.below(bytes.len().max(1) as u32) as usize),
            Fault::Longer => bytes.resize(bytes.len() + 1 + rng.below(1 << 16) as usize, 0xa5),
            Fault::Empty => bytes.clear(),
        }
        self.first.lock().unwrap().get_or_insert(fault);
        let result = if fault == Fault::Error { Err(io::Error::other("lost")) } else { Ok(Cow::Owned(bytes)) };
        Box::pin(std::future::ready(result))
    }
}

#[test]
fn sources_with_random_faults_give_typed_errors() -> Result {
    pollster::block_on(async {
        let bytes = TinyModel::default().to_bytes()?;
        let whole = Gguf::from_bytes(bytes.clone())?;
        let (mut right, mut failed, mut lied) = (0, 0, 0);
        for seed in 0..600 {
            let mut rng = Rng::new(seed);
            let first = Arc::new(Mutex::new(None));
            let len = match seed % 6 {
                // Lies: shorter, longer, much longer.
                0 => u64::from(rng.below(bytes.len() as u32)),
                1 => bytes.len() as u64 + u64::from(rng.below(1 << 20)),
                2 => bytes.len() as u64 + (rng.next_u64() >> (1 + rng.below(40))),
                _ => bytes.len() as u64,
            };
            let (lies, one_of) =
                (len != bytes.len() as u64 || seed % 12 == 5, [0, 2, 8, 30, 100][rng.below(5) as usize]);
            let source = Faulty {
                bytes: bytes.clone(),
                len,
                unsteady: seed % 12 == 5,
                one_of,
                rng: Mutex::new(Rng::new(seed + 1000)),
                first: Arc::clone(&first),
            };
            // Some tensors in ranges, then a model of them all.
            let read = async {
                let gguf = Gguf::from_source(source).await?.read_window(WINDOW);
                for tensor in gguf.tensors().iter().take(4) {
                    let range = random_range(&mut rng, tensor.bytes);
                    let found = gguf.read_data(tensor, range.clone()).await?;
                    let same = whole.tensor(&tensor.name).expect("the tensor");
                    assert_eq!(found, whole.read_data(same, range).await?, "{seed}");
                }
                if seed % 5 == 0 { Model::load(&Device::cpu(), &gguf, |_, _| ()).await.map(|_| ()) } else { Ok(()) }
            };
            let result: std::result::Result<(), ModelError> = read.await;
            let fault = *first.lock().unwrap();
            match (&result, fault) {
                (Ok(()), None) => right += 1,
                (Err(ModelError::Gguf(GgufError::Read { .. })), Some(Fault::Error)) => failed += 1,
                (
                    Err(ModelError::Gguf(GgufError::WrongRange { .. })),
                    Some(Fault::Shorter | Fault::Longer | Fault::Empty),
                ) => {
                    failed += 1;
                }
                // What the length makes of the header and of the tensors.
                (Err(ModelError::Gguf(_)), _) if lies => lied += 1,
                other => panic!("{seed}: {other:?}"),
            }
        }
        assert!(right > 50 && failed > 50 && lied > 50, "{right} right, {failed} failed, {lied} lied");
        Ok(())
    })
}
