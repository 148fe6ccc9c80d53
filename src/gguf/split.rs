//! Split models: several files, named `…-00001-of-00003.gguf`, of which the first has the metadata.

use super::{Directory, GgufError, Metadata, index::Index, source::Source};
use std::path::{Path, PathBuf};

/// The most parts: five digits are in a name.
const MAX_PARTS: u32 = 99_999;

/// A file's place in a split model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    number: u32,
    pub(super) count: u32,
}

impl Place {
    /// Returns the place that a file's metadata says; a whole model is the first part of one.
    pub(super) fn of(metadata: &Metadata) -> Result<Self, GgufError> {
        let number = metadata.u32("split.no")?.unwrap_or(0);
        Ok(Self { number, count: metadata.u32("split.count")?.unwrap_or(1).max(1) })
    }
}

/// Adds the other parts of a split model to its first, which is at `path`. Every part is checked.
pub(super) fn join(
    path: &Path,
    first: Source,
    mut directory: Directory,
    open: impl Fn(&Path) -> Result<Source, GgufError>,
) -> Result<(Vec<Source>, Directory), GgufError> {
    let place = Place::of(&directory.metadata)?;
    let mut sources = vec![first];
    if place.count == 1 {
        return Ok((sources, directory));
    }
    let stem = stem(path, place);
    if place.number > 0 {
        let first = stem.map(|stem| part_path(path, &stem, Place { number: 0, ..place }));
        return Err(GgufError::NotFirstPart { number: place.number, count: place.count, first });
    }
    let wrong = |number: u32, path: &Path, reason: String| GgufError::Part {
        number,
        count: place.count,
        path: path.to_owned(),
        reason,
    };
    let Some(stem) = stem.filter(|_| place.count <= MAX_PARTS) else {
        let reason = format!("its name does not end in -00001-of-{:05}.gguf, so the others are unknown", place.count);
        return Err(wrong(0, path, reason));
    };
    for number in 1..place.count {
        let path = part_path(path, &stem, Place { number, ..place });
        let source = open(&path).map_err(|error| match error {
            GgufError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                wrong(number, &path, "the file is missing".to_owned())
            }
            error => error,
        })?;
        let part =
            Directory::parse(source.bytes(), source.len()).map_err(|error| wrong(number, &path, error.to_string()))?;
        let found = Place::of(&part.metadata).map_err(|error| wrong(number, &path, error.to_string()))?;
        if found != (Place { number, ..place }) {
            let reason = format!("the file says that it is part {} of {}", found.number + 1, found.count);
            return Err(wrong(number, &path, reason));
        }
        let placed = part.tensors.into_iter().map(|mut tensor| {
            tensor.part = number;
            tensor
        });
        directory.tensors.extend(placed);
        directory.unread.extend(part.unread);
        sources.push(source);
    }
    let tensors = (directory.tensors.len() + directory.unread.len()) as u64;
    if let Some(expected) = directory.metadata.u64("split.tensors.count")?.filter(|expected| *expected != tensors) {
        let reason = format!("all parts together have {tensors} tensors, but the first says {expected}");
        return Err(wrong(0, path, reason));
    }
    directory.index = Index::new(&directory.tensors, |tensor| &tensor.name)
        .map_err(|tensor| GgufError::DuplicateTensor { tensor })?;
    Ok((sources, directory))
}

/// Returns a part's file name without its number, if it has the name of its place.
fn stem(path: &Path, place: Place) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(&suffix(place)).map(str::to_owned)
}

fn part_path(path: &Path, stem: &str, place: Place) -> PathBuf {
    path.with_file_name(format!("{stem}{}", suffix(place)))
}

fn suffix(place: Place) -> String {
    format!("-{:05}-of-{:05}.gguf", place.number + 1, place.count)
}
