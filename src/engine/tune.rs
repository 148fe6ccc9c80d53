//! Autotuning: kernels chosen by measurement on a GPU.

use std::{collections::BTreeSet, time::Duration};

use super::{Engine, EngineError, EngineOptions, executor::Executor};
use crate::{
    gpu::{Device, GpuError, Plan, Program, Stage, Step},
    model::{DeviceProfile, KernelSelection, Model, Phase, Tuning, TuningChoice, TuningKey},
};

/// The result of [`Engine::tune`].
#[derive(Clone, Debug, Default)]
pub struct Tuned {
    /// All choices, with those that were known before: for [`EngineOptions::tuning`].
    pub tuning: Tuning,
    /// What was measured.
    pub timings: Vec<Timing>,
    /// Whether the budget sufficed for all keys.
    pub complete: bool,
}

/// The time of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The candidate.
    pub candidate: TuningChoice,
    /// The sum of its shortest times over the key's passes.
    pub time: Duration,
    /// Whether it was chosen.
    pub chosen: bool,
}

/// Rounds in which candidates are timed one after the other.
const ROUNDS: usize = 5;
/// A candidate is run this often in a round, or as often as fits in [`ROUND`].
const MAX_RUNS: u32 = 16;
const ROUND: Duration = Duration::from_millis(4);
/// The share of the default's time that another candidate must save.
const GAIN: f64 = 0.03;

impl Engine {
    /// Times the candidates of each [`TuningKey`] with the model's own weights, and returns the fastest. Keys that `options`
    /// have a choice for are left out. No measurement begins after `budget` has passed by `clock`, which returns the time
    /// since some moment.
    ///
    /// Software drivers and the CPU kernels are never tuned: their kernels are selected by figures that are known. A selection
    /// in `options` is tuned on any GPU or driver.
    ///
    /// A tuned selection may have another order of sums than the default. It takes the memory of an engine while it lasts.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    pub async fn tune(
        model: &Model,
        options: &EngineOptions,
        budget: Duration,
        clock: &mut (dyn FnMut() -> Duration + Send),
    ) -> Result<Tuned, EngineError> {
        let known = Some(&options.tuning).filter(|tuning| tuning.matches(model));
        let tuning = known.cloned().unwrap_or_else(|| Tuning::new(model));
        let mut tuned = Tuned { tuning, timings: Vec::new(), complete: true };
        let device = model.device();
        if device.is_cpu() || device.is_software() && options.plan.kernels.is_none() {
            return Ok(tuned);
        }
        let profile = DeviceProfile::new(device);
        let selection = options.plan.selection_on(device);
        let refined = |tuning: &Tuning| selection.refined(tuning, &profile, options.plan.precision);
        let candidates = |key: TuningKey, tuning: &Tuning| {
            let kernels = refined(tuning);
            let all = kernels.candidates(key, model.config(), &profile, options.plan.precision);
            let unknown = tuning.get(key).is_none() && all.len() > 1 && !passes(key, options).is_empty();
            unknown.then_some(all)
        };
        let end = clock().saturating_add(budget);
        if TuningKey::ALL.iter().all(|key| candidates(*key, &tuned.tuning).is_none()) {
            return Ok(tuned);
        }
        let mut tuner = Tuner { executor: Executor::new(model, options).await?, clock, end };
        for key in TuningKey::ALL {
            let Some(candidates) = candidates(key, &tuned.tuning) else { continue };
            let kernels = refined(&tuned.tuning);
            let mut times = vec![Duration::ZERO; candidates.len()];
            for (phase, rows) in passes(key, options) {
                let Some(taken) = tuner.measure(phase, rows, kernels, &candidates).await? else {
                    tuned.complete = false;
                    return Ok(tuned);
                };
                times.iter_mut().zip(taken).for_each(|(sum, time)| *sum += time);
            }
            let chosen = fastest(&times);
            tuned.tuning.set(candidates[chosen]);
            let timings = candidates.iter().zip(times).enumerate();
            tuned.timings.extend(timings.map(|(i, (candidate, time))| Timing {
                candidate: *candidate,
                time,
                chosen: i == chosen,
            }));
        }
        Ok(tuned)
    }
}

/// Returns the passes that `key` is measured with.
fn passes(key: TuningKey, options: &EngineOptions) -> Vec<(Phase, u32)> {
    key.passes(options.prefill_rows, options.sequences)
}

/// Returns the index of the shortest time: the first, which is the default's, unless another saves [`GAIN`] of it.
fn fastest(times: &[Duration]) -> usize {
    let default = times.first().copied().unwrap_or_default();
    let (mut best, mut least) = (0, default.mul_f64(1.0 - GAIN));
    for (i, time) in times.iter().enumerate().skip(1) {
        if *time < least {
            (best, least) = (i, *time);
        }
    }
    best
}

struct Tuner<'a> {
    executor: Executor,
    clock: &'a mut (dyn FnMut() -> Duration + Send),
    end: Duration,
}

impl Tuner<'_> {
    /// Returns the shortest time of each candidate in a pass, without the dispatches that all have; `None` when the budget is
    /// spent.
    async fn measure(
        &mut self,
        phase: Phase,
        rows: u32,
        kernels: KernelSelection,
        candidates: &[TuningChoice],
    ) -> Result<Option<Vec<Duration>>, GpuError> {
        if (self.clock)() >= self.end {
            return Ok(None);
        }
        let device = self.executor.device().clone();
        // A pass has no more rows than the engine has room for.
        let rows = self.executor.trial_rows(phase, rows);
        let plan = |choice: TuningChoice| self.executor.trial_plan(phase, rows, kernels.with(choice));
        let plans = candidates.iter().map(|choice| plan(*choice)).collect::<Result<Vec<_>, _>>()?;
        let Some(parts) = differing(&plans) else {
            // The pass has none of the kernels that the key is about.
            return Ok(Some(vec![Duration::ZERO; plans.len()]));
        };
        let mut before = Program::new(&device);
        before.prepare(&device, take(plan(candidates[0])?, &parts.before)).await?;
        let mut programs = Vec::new();
        for (plan, range) in plans.into_iter().zip(&parts.of) {
            let mut program = Program::new(&device);
            program.prepare(&device, take(plan, range)).await?;
            programs.push(program);
        }
        // The router's choice needs its inputs.
        self.executor.write_trial(phase, rows)?;
        before.run(&device).await?;
        let mut runs = Vec::new();
        for program in &programs {
            // Drivers compile during the first run, which is not counted.
            if self.time(&device, program, 1).await?.is_none() {
                return Ok(None);
            }
            let Some(time) = self.time(&device, program, 1).await? else { return Ok(None) };
            runs.push((ROUND.as_nanos() / time.as_nanos().max(1)).clamp(1, MAX_RUNS.into()) as u32);
        }
        let runs = runs.into_iter().min().unwrap_or(1);
        let mut times = vec![Duration::MAX; programs.len()];
        for _ in 0..ROUNDS {
            for (program, least) in programs.iter().zip(&mut times) {
                let Some(time) = self.time(&device, program, runs).await? else { return Ok(None) };
                *least = time.min(*least);
            }
        }
        Ok(Some(times))
    }

    /// Returns the time of a program, the mean of some runs; `None` when the budget is spent.
    async fn time(&mut self, device: &Device, program: &Program, runs: u32) -> Result<Option<Duration>, GpuError> {
        let start = (self.clock)();
        if start >= self.end {
            return Ok(None);
        }
        for _ in 0..runs {
            program.run(device).await?;
        }
        self.executor.wait().await?;
        Ok(Some((self.clock)().saturating_sub(start) / runs))
    }
}

/// The indices of the steps in which plans differ, and of the first plan's steps before them.
struct Parts {
    of: Vec<Vec<usize>>,
    before: Vec<usize>,
}

/// Returns the steps of the first part that differs between plans, without a common start and end. Of a layer the next one is
/// included: it may be given a normed residual or not.
fn differing(plans: &[Plan]) -> Option<Parts> {
    let of_layer = |plan: &Plan, layer: Part| -> Vec<usize> {
        (0..plan.steps().len()).filter(|i| part_of(&plan.steps()[*i]) == layer).collect()
    };
    let same = |plan: &Plan, i: usize, other: &Plan, j: usize| plan.steps()[i].same(&other.steps()[j]);
    let (first, others) = plans.split_first()?;
    let mut seen = BTreeSet::new();
    let layers: Vec<Part> = first.steps().iter().map(part_of).filter(|layer| seen.insert(*layer)).collect();
    let differs = |layer: Part| {
        let mine = of_layer(first, layer);
        others.iter().any(|other| {
            let its = of_layer(other, layer);
            its.len() != mine.len() || mine.iter().zip(&its).any(|(i, j)| !same(first, *i, other, *j))
        })
    };
    let at = layers.iter().position(|layer| differs(*layer))?;
    let next = layers.get(at + 1).filter(|next| matches!((layers[at], next), (Part::Layer(_), Part::Layer(_))));
    let both = |plan: &Plan| {
        let mut steps = of_layer(plan, layers[at]);
        steps.extend(next.map(|next| of_layer(plan, *next)).unwrap_or_default());
        steps
    };
    let mut of: Vec<_> = plans.iter().map(both).collect();
    let mut before: Vec<_> =
        (0..first.steps().len()).filter(|i| first.steps()[*i].scope().stage == Stage::Embed).collect();
    before.extend(&of[0]);
    loop {
        let same_ends = |end: fn(&Vec<usize>) -> Option<&usize>| {
            let Some(mine) = end(&of[0]) else { return false };
            plans.iter().zip(&of).all(|(plan, steps)| end(steps).is_some_and(|its| same(first, *mine, plan, *its)))
        };
        if same_ends(|steps| steps.first()) {
            for steps in &mut of {
                steps.remove(0);
            }
        } else if same_ends(|steps| steps.last()) {
            for steps in &mut of {
                steps.pop();
            }
        } else {
            break;
        }
    }
    Some(Parts { of, before })
}

/// A part of a plan: a layer, or a stage outside of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Layer(u32),
    Outside(Stage),
}

/// Returns the part that a step belongs to.
fn part_of(step: &Step) -> Part {
    let scope = step.scope();
    scope.layer.map_or(Part::Outside(scope.stage), Part::Layer)
}

/// Returns the plan of some steps.
fn take(plan: Plan, steps: &[usize]) -> Plan {
    let mut number = 0;
    plan.filtered(|_| {
        number += 1;
        steps.contains(&(number - 1))
    })
}
