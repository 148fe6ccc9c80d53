//! Choices among kernels of one order of sums, by measurement.

use std::{cell::RefCell, collections::BTreeMap};

use super::{Model, ModelError};
use crate::{gguf::Gguf, gpu::Device};

/// What was found quickest on one device for one shape of model: plain data, to be kept between runs. Choices change speed
/// and nothing else: what they choose among has the same bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// [`Device::fingerprint`](crate::gpu::Device::fingerprint) of the device.
    pub device: String,
    /// [`Model::shape`] of the model.
    pub model: String,
    /// The choice at each site that was measured, both by name.
    pub choices: BTreeMap<String, String>,
}

impl Tuning {
    /// One without choices, of the model in `gguf` on `device`: what it is kept by.
    ///
    /// # Errors
    /// [`ModelError`] when the file is no model that can be run there.
    pub async fn of(device: &Device, gguf: &Gguf) -> Result<Self, ModelError> {
        Ok(Self::new(&Model::dry_run(device, gguf).await?))
    }

    /// One without choices.
    pub(crate) fn new(model: &Model) -> Self {
        Self { device: model.device().fingerprint(), model: model.shape(), choices: BTreeMap::new() }
    }

    /// Whether it was measured on this model's device and driver, by this version of the engine, for its shape.
    pub fn is_of(&self, model: &Model) -> bool {
        self.device == model.device().fingerprint() && self.model == model.shape()
    }
}

/// A place in a plan where there is a choice, and the names of what can be chosen, the default first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) candidates: Vec<&'static str>,
}

/// What a plan is recorded by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices<'a> {
    pub(crate) tuning: &'a Tuning,
    /// The sites that were met.
    pub(crate) met: Option<&'a RefCell<Vec<Site>>>,
}

impl Choices<'_> {
    /// What is chosen for `rows` rows at a site. A choice that is none of the candidates, as an older file may have it, is
    /// not taken.
    pub(super) fn choose<T: Copy>(
        &self,
        what: &str,
        rows: u32,
        default: (&'static str, T),
        others: &[(&'static str, T)],
    ) -> T {
        // Rows up to the next power of two are alike.
        let name = format!("{what}, rows: {}", rows.next_power_of_two());
        let chosen = self.tuning.choices.get(&name);
        if let Some(mut met) = self.met.and_then(|met| met.try_borrow_mut().ok())
            && met.iter().all(|site| site.name != name)
        {
            let candidates = [default.0].into_iter().chain(others.iter().map(|(name, _)| *name)).collect();
            met.push(Site { name, candidates });
        }
        others
            .iter()
            .find(|(name, _)| chosen.is_some_and(|chosen| chosen == name))
            .map_or(default.1, |(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_choices_are_not_taken_and_sites_are_met_once() {
        let choices = [("a, rows: 4", "second"), ("b, rows: 4", "gone")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let tuning = Tuning { choices: choices.into(), ..Tuning::default() };
        let met = RefCell::default();
        let by = Choices { tuning: &tuning, met: Some(&met) };
        let choose = |what, rows| by.choose(what, rows, ("first", 1), &[("second", 2)]);
        assert_eq!([choose("a", 3), choose("a", 4), choose("a", 5), choose("b", 4), choose("c", 4)], [2, 2, 1, 1, 1]);
        let names: Vec<_> = met.borrow().iter().map(|site: &Site| site.name.clone()).collect();
        assert_eq!(names, ["a, rows: 4", "a, rows: 8", "b, rows: 4", "c, rows: 4"]);
        assert_eq!(met.borrow()[0].candidates, ["first", "second"]);
    }
}
