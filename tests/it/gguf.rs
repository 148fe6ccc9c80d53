//! Round trips and damaged GGUF files. `gguf_refusals.rs` tests the errors.

use ferrum_wgpu::low_level::quant::{Rng, WeightType, decode, random_blocks};
use ferrum_wgpu::{
    Gguf, GgufError,
    gguf::{Array, GgufWriter, TensorInfo, Value},
};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// Returns a value of every type, including nested arrays, in the order of the file.
fn values() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", "qwen3moe".into()),
        ("u8", u8::MAX.into()),
        ("i8", i8::MIN.into()),
        ("u16", u16::MAX.into()),
        ("i16", i16::MIN.into()),
        ("u32", u32::MAX.into()),
        ("i32", i32::MIN.into()),
        ("f32", 1e-6_f32.into()),
        ("bool", true.into()),
        ("text", "grüße \"\\\n".into()),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
        ("f64", 0.1_f64.into()),
        ("u8s", vec![1_u8, 2].into()),
        ("i8s", vec![-1_i8].into()),
        ("u16s", vec![1_u16].into()),
        ("i16s", vec![-1_i16].into()),
        ("u32s", vec![1_u32, u32::MAX].into()),
        ("i32s", vec![1, -1, i32::MIN].into()),
        ("f32s", vec![0.5_f32, f32::INFINITY].into()),
        ("bools", vec![true, false].into()),
        ("texts", vec!["a", "", "ĠĠ", "d", "e"].into()),
        ("u64s", vec![7_u64].into()),
        ("i64s", vec![-7_i64].into()),
        ("f64s", vec![0.5_f64].into()),
        ("empty", Vec::<f32>::new().into()),
        ("nested", vec![Array::Array(vec![Array::U8(vec![1])]), Array::String(vec!["x".into()])].into()),
    ]
}

/// Returns a file with all of [`values`] and a tensor of every type, three rows of two blocks each.
fn sample() -> GgufWriter {
    let mut writer = GgufWriter::new();
    for (key, value) in values() {
        writer.metadata(key, value);
    }
    for ty in WeightType::ALL {
        let shape = [2 * ty.block_len() as u64, 3];
        writer.tensor(format!("{ty}.weight"), ty, &shape, random_blocks(ty, 6, 1.0, ty.ggml_id().into()));
    }
    writer
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-q4_k_m.gguf")
}

#[test]
fn files_survive_a_round_trip() {
    for alignment in [None, Some(8_u32), Some(65_536)] {
        let mut writer = sample();
        if let Some(alignment) = alignment {
            writer.metadata("general.alignment", alignment);
        }
        let bytes = writer.to_bytes().unwrap();
        let file = Gguf::from_bytes(bytes.clone()).unwrap();
        let alignment = alignment.map_or(32, u64::from);
        assert_eq!((file.version(), file.alignment(), file.file_len()), (3, alignment, bytes.len() as u64));
        let read: Vec<_> = file.metadata().iter().take(values().len()).map(|(k, v)| (k, v.clone())).collect();
        assert_eq!(read, values());
        for (tensor, ty) in file.tensors().iter().zip(WeightType::ALL) {
            assert_eq!((tensor.name.as_str(), tensor.ty), (format!("{ty}.weight").as_str(), ty));
            assert_eq!((tensor.row_len(), tensor.rows()), (2 * ty.block_len() as u64, 3));
            assert_eq!(tensor.elements(), 6 * ty.block_len() as u64);
            assert_eq!(tensor.offset % alignment, 0);
            assert_eq!(file.data(tensor), random_blocks(ty, 6, 1.0, ty.ggml_id().into()), "{ty}");
            assert_eq!(file.tensor(&tensor.name), Some(tensor));
        }
        assert_eq!(file.tensors().len(), WeightType::ALL.len());
        assert_eq!(file.tensor("no such"), None);
    }
}

#[test]
fn version_2_and_files_without_tensors_are_read() {
    let mut bytes = sample().to_bytes().unwrap();
    bytes[4] = 2;
    assert_eq!(Gguf::from_bytes(bytes).unwrap().version(), 2);
    // The end of a file without tensors needs no padding.
    let mut bytes = GgufWriter::new().metadata("k", 9_u8).to_bytes().unwrap();
    bytes.truncate(24 + 8 + 1 + 4 + 1);
    let file = Gguf::from_bytes(bytes).unwrap();
    assert!(file.tensors().is_empty() && file.metadata().get("k") == Some(&Value::U8(9)));
}

#[test]
fn look_ups_convert_between_number_types() {
    let file = Gguf::from_bytes(sample().to_bytes().unwrap()).unwrap();
    let data = file.metadata();
    assert_eq!((data.u32("u8").unwrap(), data.u32("u32").unwrap()), (Some(255), Some(u32::MAX)));
    assert_eq!((data.u64("u16").unwrap(), data.u64("u64").unwrap()), (Some(65_535), Some(u64::MAX)));
    assert_eq!(data.f32("f32").unwrap(), Some(1e-6));
    assert_eq!((data.f32("f64").unwrap(), data.f32("i8").unwrap()), (Some(0.1), Some(-128.0)));
    assert_eq!((data.bool("bool").unwrap(), data.str("text").unwrap()), (Some(true), Some("grüße \"\\\n")));
    assert_eq!(data.strings("texts").unwrap().unwrap(), ["a", "", "ĠĠ", "d", "e"]);
    assert_eq!(data.i32s("i64s").unwrap().unwrap(), [-7]);
    assert_eq!(data.f32s("f64s").unwrap().unwrap(), [0.5]);
    assert!(matches!(data.u32("absent"), Ok(None)) && matches!(data.strings("absent"), Ok(None)));
    let wrong = [
        (
            data.u32("u64").map(|_| ()),
            "metadata key u64 should be an unsigned 32-bit integer, but is u64 18446744073709551615",
        ),
        (data.u64("i8").map(|_| ()), "metadata key i8 should be an unsigned 64-bit integer, but is i8 -128"),
        (data.u32("f32").map(|_| ()), "metadata key f32 should be an unsigned 32-bit integer, but is f32 0.000001"),
        (data.f32("text").map(|_| ()), "metadata key text should be a number, but is string \"grüße \\\"\\\\\\n\""),
        (data.bool("u8").map(|_| ()), "metadata key u8 should be a boolean, but is u8 255"),
        (
            data.str("texts").map(|_| ()),
            "metadata key texts should be a string, but is array [5 strings: \"a\", \"\", \"ĠĠ\", \"d\", …]",
        ),
        (
            data.strings("text").map(|_| ()),
            "metadata key text should be an array of strings, but is string \"grüße \\\"\\\\\\n\"",
        ),
        (
            data.i32s("u32s").map(|_| ()),
            "metadata key u32s should be an array of 32-bit integers, but is array [2 u32s: 1, 4294967295]",
        ),
        (
            data.f32s("i32s").map(|_| ()),
            "metadata key i32s should be an array of floats, but is array [3 i32s: 1, -1, -2147483648]",
        ),
    ];
    for (result, message) in wrong {
        assert_eq!(result.unwrap_err().to_string(), message);
    }
}

#[test]
fn values_are_shown_on_one_short_line() {
    let show = |value: Value| value.to_string();
    assert_eq!(show(Value::U8(7)), "7");
    assert_eq!(show(Vec::<String>::new().into()), "[0 strings]");
    assert_eq!(show(vec![Array::U8(vec![1]), Array::Bool(vec![])].into()), "[2 arrays: [1 u8s: 1], [0 bools]]");
    assert_eq!(show("\u{1b}[31m\u{202e}".into()), r#""\u{1b}[31m\u{202e}""#);
    assert_eq!(show("é".repeat(200).into()), format!("\"{}…\"", "é".repeat(80)));
}

#[test]
fn demo_model_is_read_mapped_and_unmapped() {
    let (mapped, read) = (Gguf::open(demo()).unwrap(), Gguf::read(demo()).unwrap());
    assert_eq!(mapped.tensors(), read.tensors());
    assert_eq!(mapped.metadata().str("general.architecture").unwrap(), Some("qwen3moe"));
    let tokens = mapped.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap();
    let embedding = mapped.tensor("token_embd.weight").unwrap();
    assert_eq!(embedding.rows(), tokens.len() as u64);
    for tensor in mapped.tensors() {
        let data = mapped.data(tensor);
        assert_eq!(data, read.data(tensor));
        let mut weights = vec![0.0; tensor.elements() as usize];
        decode(tensor.ty, data, &mut weights).unwrap();
        assert!(weights.iter().all(|w| w.is_finite()) && weights.iter().any(|&w| w != 0.0), "{}", tensor.name);
    }
}

#[test]
fn data_of_another_files_tensor_are_empty() {
    let big = Gguf::open(demo()).unwrap();
    let small = Gguf::from_bytes(sample().to_bytes().unwrap()).unwrap();
    assert!(small.data(big.tensors().last().unwrap()).is_empty());
}

#[test]
fn errors_name_unreadable_files() {
    let path = demo().with_file_name("no such.gguf");
    for error in [Gguf::open(&path).unwrap_err(), Gguf::read(&path).unwrap_err()] {
        let GgufError::Io { path: named, source } = error else { panic!("{error:?}") };
        assert_eq!((named, source.kind()), (path.clone(), std::io::ErrorKind::NotFound));
    }
    assert!(matches!(Gguf::open(env!("CARGO_MANIFEST_DIR")), Err(GgufError::Io { .. })));
}

#[test]
fn large_vocabularies_are_read_quickly() {
    let mut writer = GgufWriter::new();
    let tokens: Vec<String> = (0..150_000).map(|i| format!("token{i}")).collect();
    let merges: Vec<String> = (0..150_000).map(|i| format!("left{i} right{i}")).collect();
    writer.metadata("tokenizer.ggml.tokens", tokens.clone()).metadata("tokenizer.ggml.merges", merges);
    let bytes = writer.to_bytes().unwrap();
    let start = std::time::Instant::now();
    let file = Gguf::from_bytes(bytes).unwrap();
    let took = start.elapsed();
    assert_eq!(file.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap(), tokens);
    // Milliseconds in a release build; the bound is for a busy machine.
    assert!(took.as_millis() < 2000, "{took:?}");
}

#[test]
fn files_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Gguf>();
    shared::<GgufError>();
    shared::<TensorInfo>();
}

#[test]
fn the_writer_refuses_invalid_files() {
    let error = |edit: fn(&mut GgufWriter)| {
        let mut writer = GgufWriter::new();
        edit(&mut writer);
        writer.to_bytes().unwrap_err()
    };
    let f32 = WeightType::F32;
    let short = error(|w| _ = w.tensor("t", WeightType::F32, &[2], vec![0; 7]));
    assert!(matches!(short, GgufError::DataLength { expected: 8, found: 7, .. }));
    assert!(matches!(error(|w| _ = w.tensor("t", WeightType::Q4K, &[32], vec![])), GgufError::PartialBlock { .. }));
    let twice = error(|w| _ = w.metadata("k", 1_u8).metadata("k", 2_u8));
    assert!(matches!(twice, GgufError::DuplicateKey { key } if key == "k"));
    assert!(matches!(error(|w| _ = w.metadata("general.alignment", 3_u32)), GgufError::Alignment { found: 3 }));
    let mut huge = GgufWriter::new();
    huge.tensor("t", f32, &[u64::MAX, 2], vec![]);
    assert!(matches!(huge.to_bytes(), Err(GgufError::TensorSize { .. })));
}

/// Opens a possibly malformed file. Accepted files must be usable, and errors are single lines.
fn survive(bytes: Vec<u8>) -> Result<(), GgufError> {
    let file = Gguf::from_bytes(bytes).inspect_err(|error| assert!(!error.to_string().contains(['\n', '\x1b'])))?;
    for tensor in file.tensors() {
        assert_eq!(file.data(tensor).len() as u64, tensor.bytes);
        let mut weights = vec![0.0; tensor.elements() as usize];
        decode(tensor.ty, file.data(tensor), &mut weights).unwrap();
    }
    for (key, value) in file.metadata().iter() {
        assert!(file.metadata().get(key).is_some() && value.to_string().len() < 2000);
    }
    Ok(())
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample().to_bytes().unwrap();
    let file = Gguf::from_bytes(bytes.clone()).unwrap();
    let end = file.tensors().iter().map(|tensor| (tensor.offset + tensor.bytes) as usize).max().unwrap();
    for len in 0..bytes.len() {
        // Padding after the last tensor may be missing.
        assert_eq!(survive(bytes[..len].to_vec()).is_ok(), len >= end, "{len} bytes");
    }
}

#[test]
fn flipped_bits_cause_no_panic() {
    let bytes = sample().to_bytes().unwrap();
    let directory = Gguf::from_bytes(bytes.clone()).unwrap().tensors()[0].offset as usize;
    for bit in 0..directory * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _ = survive(bytes);
    }
}

#[test]
fn random_damage_causes_no_panic() {
    let bytes = sample().to_bytes().unwrap();
    let directory = Gguf::from_bytes(bytes.clone()).unwrap().tensors()[0].offset as u32;
    let mut rng = Rng::new(1);
    for _ in 0..5000 {
        let mut bytes = bytes.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(directory - 8) as usize;
            // Whole fields at the edges of their ranges, or noise.
            let field = [0, 1, u64::MAX, 1 << 31, 1 << 63, u64::MAX - 31, rng.next_u64()][rng.below(7) as usize];
            let width = [1, 4, 8][rng.below(3) as usize];
            bytes[at..at + width].copy_from_slice(&field.to_le_bytes()[..width]);
        }
        let _ = survive(bytes);
    }
}

/// Returns the resident bytes that this process maps from the file.
#[cfg(target_os = "linux")]
fn resident(path: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("maps");
    let mut of_file = false;
    let mut kib = 0;
    for line in maps.lines() {
        match line.split_once(':') {
            Some(("Rss", size)) if of_file => {
                kib += size.trim().trim_end_matches(" kB").parse::<u64>().expect("a size");
            }
            // The first line of a mapping begins with its addresses and ends with its file.
            _ if line.split_whitespace().next().is_some_and(|word| word.contains('-')) => {
                of_file = line.ends_with(path.to_str().expect("UTF-8"));
            }
            _ => {}
        }
    }
    kib << 10
}

#[test]
fn released_data_are_not_resident_and_can_be_read_again() {
    let raw: Vec<u8> = (0..16u32 << 20).map(|i| (i ^ (i >> 13)) as u8).collect();
    let mut file = GgufWriter::new();
    file.tensor("a", WeightType::F32, &[1 << 20], raw[..4 << 20].to_vec());
    file.tensor("b", WeightType::F32, &[4 << 20], raw.clone());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("released.gguf");
    std::fs::write(&path, file.to_bytes().expect("a file")).expect("a writable folder");
    for gguf in [Gguf::open(&path), Gguf::read(&path)] {
        let gguf = gguf.expect("a file");
        let [a, b] = gguf.tensors() else { panic!("two tensors") };
        assert!(gguf.data(a) == &raw[..4 << 20] && gguf.data(b) == raw);
        #[cfg(target_os = "linux")]
        let before = resident(&path);
        // Ranges outside of the tensor are ignored.
        for range in
            [0..0, 1 << 40..u64::MAX, Range { start: u64::MAX, end: 0 }, 5..9, 1 << 20..u64::MAX, 0..b.bytes / 2]
        {
            gguf.advise_dontneed(b, range);
        }
        #[cfg(target_os = "linux")]
        if before > 0 {
            let after = resident(&path);
            assert!(before >= 20 << 20 && after < 8 << 20, "{before} bytes before, {after} after");
        }
        assert!(gguf.data(a) == &raw[..4 << 20] && gguf.data(b) == raw);
    }
}

/// Returns a file with these tensors, as a part of a split model.
fn part(number: u16, count: u16, tensors: &[&str]) -> Result<Vec<u8>, GgufError> {
    let mut file = GgufWriter::new();
    file.metadata("split.no", number).metadata("split.count", count);
    if number == 0 {
        file.metadata("general.architecture", "llama").metadata("split.tensors.count", 3_i32);
    }
    for name in tensors {
        file.tensor(*name, WeightType::F32, &[4], vec![name.len() as u8; 16]);
    }
    file.to_bytes()
}

#[test]
fn split_models_are_opened_by_their_first_part() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("split");
    std::fs::create_dir_all(&folder)?;
    let path = |number: u32| folder.join(format!("m-{number:05}-of-00003.gguf"));
    std::fs::write(path(1), part(0, 3, &["a"])?)?;
    std::fs::write(path(2), part(1, 3, &["bb"])?)?;
    let _ = std::fs::remove_file(path(3));
    let failed = |path: std::path::PathBuf| Gguf::open(path).err().map(|error| error.to_string()).unwrap_or_default();
    let message = failed(path(1));
    assert!(
        message.contains("part 3 of 3") && message.contains("m-00003-of-00003.gguf: the file is missing"),
        "{message}"
    );

    std::fs::write(path(3), part(2, 3, &["ccc"])?)?;
    for file in [Gguf::open(path(1))?, Gguf::read(path(1))?] {
        assert_eq!((file.parts(), file.tensors().len()), (3, 3));
        for name in ["a", "bb", "ccc"] {
            let tensor = file.tensor(name).ok_or(name)?;
            assert_eq!(file.data(tensor), vec![name.len() as u8; 16]);
        }
        let lengths = (1..4).map(|number| std::fs::metadata(path(number)).map(|file| file.len()));
        assert_eq!(file.file_len(), lengths.sum::<std::io::Result<u64>>()?);
    }

    let message = failed(path(2));
    assert!(message.contains("this is part 2 of 3") && message.contains("m-00001-of-00003.gguf"), "{message}");
    for (bytes, reason) in [
        (part(1, 3, &["ccc"])?, "says that it is part 2 of 3"),
        (part(2, 4, &["ccc"])?, "says that it is part 3 of 4"),
        (part(2, 3, &["a"])?, "twice"),
        (part(2, 3, &[])?, "all parts together have 2 tensors, but the first says 3"),
        (b"GGUF".to_vec(), "part 3 of 3"),
    ] {
        std::fs::write(path(3), bytes)?;
        let message = failed(path(1));
        assert!(message.contains(reason), "{message}");
    }
    std::fs::rename(path(1), folder.join("first.gguf"))?;
    let message = failed(folder.join("first.gguf"));
    assert!(message.contains("its name does not end in -00001-of-00003.gguf"), "{message}");
    Ok(())
}
