//! Finding by measurement what is quickest where kernels of one order can be chosen among.

use std::{cell::RefCell, collections::BTreeSet, time::Duration};

use super::{Engine, EngineError, EngineOptions, runner::Runner};
use crate::{
    gpu::{Device, GpuError, Plan, Program, Stage, Step},
    model::{Choices, Model, Site, Tuning},
};

/// What [`Engine::tune`] has found.
#[derive(Clone, Debug, Default)]
pub struct Tuned {
    /// All choices, with those that were known before: for [`EngineOptions::tuning`].
    pub tuning: Tuning,
    /// What was measured for it.
    pub timings: Vec<Timing>,
    /// False when the budget was spent before all sites were measured.
    pub complete: bool,
}

/// How long a site takes with one of its candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The site.
    pub site: String,
    /// The candidate.
    pub candidate: &'static str,
    /// Its shortest time.
    pub time: Duration,
    /// Whether it was chosen.
    pub chosen: bool,
}

/// Rounds in which candidates are timed in turn.
const ROUNDS: usize = 5;
/// A candidate is run so often, or as often as fits in [`ROUND`].
const MOST_RUNS: u32 = 16;
const ROUND: Duration = Duration::from_millis(4);
/// What another candidate has to save of the default's time.
const GAIN: f64 = 0.03;

impl Engine {
    /// Times what an engine for `model` with `options` can choose among kernels that give the same bits, on the model's own
    /// weights, and gives the choices. Sites that `options` have a choice for are left out. It ends with the first
    /// measurement that begins after `budget` has passed by `clock`, which gives the time since some moment; no time is
    /// taken by other means. Nothing is timed where the CPU kernels compute.
    ///
    /// It takes the memory of an engine while it lasts.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    pub async fn tune(
        model: &Model,
        options: &EngineOptions,
        budget: Duration,
        clock: &mut (dyn FnMut() -> Duration + Send),
    ) -> Result<Tuned, EngineError> {
        let known = Some(&options.tuning).filter(|tuning| tuning.is_of(model));
        let tuning = known.cloned().unwrap_or_else(|| Tuning::new(model));
        let mut tuned = Tuned { tuning, timings: Vec::new(), complete: true };
        if model.device().is_cpu() {
            return Ok(tuned);
        }
        let end = clock().saturating_add(budget);
        let recording = Runner::new(&model.recording(), options).await?;
        let trials = recording.trials().len();
        let mut unknown = false;
        for number in 0..trials {
            unknown |= first_unknown(&recording, number, &tuned.tuning)?.is_some();
        }
        if !unknown {
            return Ok(tuned);
        }
        let mut tuner = Tuner { runner: Runner::new(model, options).await?, clock, end };
        for number in 0..trials {
            tuner.trial(number, &mut tuned).await?;
        }
        Ok(tuned)
    }
}

/// The first site of a pass that nothing is known of.
fn first_unknown(runner: &Runner, number: usize, tuning: &Tuning) -> Result<Option<Site>, GpuError> {
    let met = RefCell::default();
    runner.trial_plan(number, Choices { tuning, met: Some(&met) })?;
    Ok(met.into_inner().into_iter().find(|site: &Site| !tuning.choices.contains_key(&site.name)))
}

struct Tuner<'a> {
    runner: Runner,
    clock: &'a mut (dyn FnMut() -> Duration + Send),
    end: Duration,
}

impl Tuner<'_> {
    /// Measures the sites of a pass that nothing is known of.
    async fn trial(&mut self, number: usize, tuned: &mut Tuned) -> Result<(), GpuError> {
        loop {
            let Some(site) = first_unknown(&self.runner, number, &tuned.tuning)? else { return Ok(()) };
            let Some(times) = self.site(number, &site, &tuned.tuning).await? else {
                tuned.complete = false;
                return Ok(());
            };
            let default = times.first().copied().unwrap_or_default();
            let (mut best, mut least) = (0, default.mul_f64(1.0 - GAIN));
            for (i, time) in times.iter().enumerate().skip(1) {
                if *time < least {
                    (best, least) = (i, *time);
                }
            }
            for (i, (candidate, time)) in site.candidates.iter().zip(times).enumerate() {
                tuned.timings.push(Timing { site: site.name.clone(), candidate, time, chosen: i == best });
            }
            let chosen = site.candidates.get(best).copied().unwrap_or_default();
            tuned.tuning.choices.insert(site.name, chosen.to_owned());
        }
    }

    /// The shortest time of each candidate; `None` when there is no time left. What is the same for all is left out of it.
    async fn site(&mut self, number: usize, site: &Site, tuning: &Tuning) -> Result<Option<Vec<Duration>>, GpuError> {
        if (self.clock)() >= self.end {
            return Ok(None);
        }
        let device = self.runner.device().clone();
        let plan = |candidate: &str| {
            let mut tuning = tuning.clone();
            tuning.choices.insert(site.name.clone(), candidate.to_owned());
            self.runner.trial_plan(number, Choices { tuning: &tuning, met: None })
        };
        let plans = site.candidates.iter().map(|name| plan(name)).collect::<Result<Vec<_>, _>>()?;
        let Some(parts) = differing(&plans) else {
            // A device on which all are the same.
            return Ok(Some(vec![Duration::ZERO; plans.len()]));
        };
        let mut before = Program::new(&device);
        before.prepare(&device, take(plan(site.candidates[0])?, &parts.before)).await?;
        let mut programs = Vec::new();
        for (plan, range) in plans.into_iter().zip(&parts.of) {
            let mut program = Program::new(&device);
            program.prepare(&device, take(plan, range)).await?;
            programs.push(program);
        }
        // Experts are chosen by what comes before.
        self.runner.write_trial(number)?;
        before.run(&device).await?;
        let mut runs = Vec::new();
        for program in &programs {
            // The first run is not counted: drivers compile then.
            if self.time(&device, program, 1).await?.is_none() {
                return Ok(None);
            }
            let Some(time) = self.time(&device, program, 1).await? else { return Ok(None) };
            runs.push((ROUND.as_nanos() / time.as_nanos().max(1)).clamp(1, MOST_RUNS.into()) as u32);
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

    /// How long a program takes, run some times; `None` when there is no time left for it.
    async fn time(&mut self, device: &Device, program: &Program, runs: u32) -> Result<Option<Duration>, GpuError> {
        let start = (self.clock)();
        if start >= self.end {
            return Ok(None);
        }
        for _ in 0..runs {
            program.run(device).await?;
        }
        self.runner.wait().await?;
        Ok(Some((self.clock)().saturating_sub(start) / runs))
    }
}

/// The steps by which plans differ, as indices, and what of the first comes before them.
struct Parts {
    of: Vec<Vec<usize>>,
    before: Vec<usize>,
}

/// Where plans differ: in the first layer that does, and the next, which may be told of it.
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

/// Some steps of a plan.
fn take(plan: Plan, steps: &[usize]) -> Plan {
    let mut number = 0;
    plan.filtered(|_| {
        number += 1;
        steps.contains(&(number - 1))
    })
}
