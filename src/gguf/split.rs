//! Split models: several files, named `…-00001-of-00003.gguf`, of which the first has the metadata.

use super::{Directory, GgufError, Metadata, index::Index};
use std::path::{Path, PathBuf};

/// The most parts: five digits are in a name.
#[cfg(not(target_arch = "wasm32"))]
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

/// A split model whose parts are added one after the other. Every part is checked.
pub(super) struct SplitModel {
    place: Place,
    directory: Directory,
}

impl SplitModel {
    /// Returns the model of a first part, or of a whole file, with the parts that it has. `path` is the part's name.
    pub(super) fn new(path: &Path, directory: Directory) -> Result<Self, GgufError> {
        let place = Place::of(&directory.metadata)?;
        if place.count > 1 && place.number > 0 {
            let first = part_path(path, place, 0);
            return Err(GgufError::NotFirstPart { number: place.number, count: place.count, first });
        }
        Ok(Self { place, directory })
    }

    /// Returns the number of parts.
    pub(super) fn count(&self) -> u32 {
        self.place.count
    }

    #[cfg(not(target_arch = "wasm32"))]
    /// Returns the path of part `number` beside the first, which is at `path`.
    pub(super) fn path(&self, path: &Path, number: u32) -> Result<PathBuf, GgufError> {
        part_path(path, self.place, number).filter(|_| self.count() <= MAX_PARTS).ok_or_else(|| {
            let count = self.count();
            self.wrong(
                0,
                path,
                format!("its name does not end in -00001-of-{count:05}.gguf, so the others are unknown"),
            )
        })
    }

    /// Returns the error of a part.
    pub(super) fn wrong(&self, number: u32, path: &Path, reason: String) -> GgufError {
        GgufError::Part { number, count: self.count(), path: path.to_owned(), reason }
    }

    /// Adds part `number`.
    pub(super) fn add(
        &mut self,
        number: u32,
        path: &Path,
        part: Result<Directory, GgufError>,
    ) -> Result<(), GgufError> {
        let part = part.map_err(|error| self.wrong(number, path, error.to_string()))?;
        let found = Place::of(&part.metadata).map_err(|error| self.wrong(number, path, error.to_string()))?;
        if found != (Place { number, ..self.place }) {
            let reason = format!("the file says that it is part {} of {}", found.number + 1, found.count);
            return Err(self.wrong(number, path, reason));
        }
        let placed = part.tensors.into_iter().map(|mut tensor| {
            tensor.part = number;
            tensor
        });
        self.directory.tensors.extend(placed);
        self.directory.unread.extend(part.unread);
        Ok(())
    }

    /// Returns the directory of all parts.
    pub(super) fn finish(mut self, path: &Path) -> Result<Directory, GgufError> {
        if self.count() == 1 {
            return Ok(self.directory);
        }
        let tensors = (self.directory.tensors.len() + self.directory.unread.len()) as u64;
        let expected = self.directory.metadata.u64("split.tensors.count")?;
        if let Some(expected) = expected.filter(|expected| *expected != tensors) {
            let reason = format!("all parts together have {tensors} tensors, but the first says {expected}");
            return Err(self.wrong(0, path, reason));
        }
        self.directory.index = Index::new(&self.directory.tensors, |tensor| &tensor.name)
            .map_err(|tensor| GgufError::DuplicateTensor { tensor })?;
        Ok(self.directory)
    }
}

/// Returns the path of part `number` beside a part, if the part's name says its place.
fn part_path(path: &Path, place: Place, number: u32) -> Option<PathBuf> {
    let stem = path.file_name()?.to_str()?.strip_suffix(&suffix(place))?;
    Some(path.with_file_name(format!("{stem}{}", suffix(Place { number, ..place }))))
}

fn suffix(place: Place) -> String {
    format!("-{:05}-of-{:05}.gguf", place.number + 1, place.count)
}
