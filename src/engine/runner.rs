//! The device's side of an engine: what steps are computed with and from.

use std::collections::{HashMap, VecDeque};

use super::{
    DecodePass, EngineError, EngineOptions, Profile, Sampler,
    copies::Copies,
    lane::{Batch, Lane},
    pace::{Moment, Pace, StepRows, watched},
    profile::PassKind,
    scheduler::{Give, Pick, SequenceId, Step, StepId},
};
use crate::{
    gpu::{Device, GpuError, Pending, Plan, Program, Readback},
    kernels::{attn::CHUNK, sample},
    model::{ExpertCacheLease, History, KernelSelection, KvCache, Model, Phase, Sampling, WorkspaceSize, weight_bytes},
};

/// How the tokens of a sequence's request are drawn.
#[derive(Clone, Debug)]
pub(super) struct Drawing {
    /// The request's.
    pub(super) number: u64,
    /// Options, and the state as the host knows it.
    pub(super) sampler: Sampler,
}

/// The drawing requests, by sequence.
pub(super) type Drawings = HashMap<SequenceId, Drawing>;

/// How the token of a pick is drawn; `None` where the host draws none, or the request was given up since the step was planned:
/// the sequence may have made another, whose state is not to be touched.
fn drawing_of<'a>(drawings: &'a Drawings, pick: &Pick) -> Option<&'a Drawing> {
    drawings.get(&pick.sequence).filter(|drawing| pick.give == Give::Draw && drawing.number == pick.request)
}

/// A step that the device has, and whose results the host has not.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) step: StepId,
    rows: StepRows,
    submitted: Moment,
    /// The sequences that tokens are drawn for, and their slots.
    draws: Vec<(SequenceId, u32)>,
    tokens: Pending<u32>,
    read_tokens: Option<Vec<u32>>,
    /// Logits for the host, by kind: whose each row is, and whether a token is to be drawn from it.
    logits: Vec<(Vec<HostRow>, Pending<f32>)>,
    read_logits: Vec<Vec<f32>>,
}

/// A row of logits that the host wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostRow {
    pub(super) sequence: SequenceId,
    /// The number of its request.
    pub(super) request: u64,
    pub(super) give: Give,
    /// Its place among the rows of its pass.
    row: usize,
}

/// What a step has computed.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) step: StepId,
    pub(super) tokens: Vec<(SequenceId, u32)>,
    pub(super) logits: Vec<(HostRow, Vec<f32>)>,
}

/// A step as the device is given it.
#[derive(Debug, Default)]
pub(super) struct Work {
    batches: [Batch; 2],
    host_rows: [Vec<HostRow>; 2],
    draws: Vec<(SequenceId, u32)>,
    /// What the device has to be told of how tokens are drawn, by slot.
    loads: Vec<(u32, Drawing)>,
}

/// The order in which a step's passes are computed; their indices in arrays by kind.
const PHASES: [Phase; 2] = [Phase::Prefill, Phase::Decode];

/// Buffers and programs of one model, for steps of many sequences.
#[derive(Debug)]
pub(super) struct Runner {
    model: Model,
    options: EngineOptions,
    kv: KvCache,
    lanes: [Lane; 2],
    copies: Copies,
    sampling: Sampling,
    /// The request whose options each slot has.
    loaded: Vec<Option<u64>>,
    tokens: Readback,
    /// The experts of a model that is paged, as long as this is there.
    _experts: Option<ExpertCacheLease>,
    pub(super) pace: Pace,
    flights: VecDeque<Flight>,
    pub(super) profile: Profile,
}

/// The room that passes of each kind need.
pub(super) fn workspace_sizes(options: &EngineOptions, context: u32) -> [WorkspaceSize; 2] {
    let slots = options.sequences;
    let (fused, int8) = (options.plan.fused, options.plan.int8());
    // Every token of a context has room for its own row at most.
    let rows = options.prefill_rows.min(context.saturating_mul(slots));
    // Those of one request for the logits of each token, and one of every other sequence.
    let logit_rows = options.logit_rows.saturating_add(slots.saturating_sub(1)).min(rows);
    let chunks = if context > CHUNK { context.div_ceil(CHUNK) } else { 0 };
    [
        WorkspaceSize { rows, logit_rows, chunks: 0, fused, int8 },
        WorkspaceSize { rows: slots, logit_rows: slots, chunks, fused, int8 },
    ]
}

impl Runner {
    /// Allocates everything; nothing is allocated for steps later but what penalties need.
    pub(super) async fn new(model: &Model, options: &EngineOptions) -> Result<Self, EngineError> {
        let (device, config) = (model.device(), model.config());
        let experts = match &model.weights().expert_cache {
            Some(cache) => Some(cache.lease().ok_or(EngineError::ExpertCacheInUse)?),
            None => None,
        };
        let shape = options.cache(config, options.kv_type_on(device.name(), device.caps())?)?;
        let [prompt, drawn] = workspace_sizes(options, shape.context);
        let slots = options.sequences;
        let logit_rows = prompt.logit_rows.max(drawn.logit_rows);
        Ok(Self {
            kv: KvCache::new(device, config, model.weights(), shape).await?,
            lanes: [Lane::new(model, Phase::Prefill, prompt).await?, Lane::new(model, Phase::Decode, drawn).await?],
            copies: Copies::new(device, slots).await?,
            sampling: Sampling::new(device, logit_rows, slots, config.vocab).await?,
            loaded: vec![None; slots as usize],
            tokens: Readback::new::<u32>(device, slots.into(), 2).await?,
            _experts: experts,
            pace: Pace::default(),
            flights: VecDeque::new(),
            profile: Profile::default(),
            model: model.clone(),
            options: EngineOptions {
                // What was measured elsewhere says nothing.
                tuning: Some(&options.tuning).filter(|tuning| tuning.matches(model)).cloned().unwrap_or_default(),
                ..options.clone()
            },
        })
    }

    /// Returns `rows`, or the most that a pass can have.
    pub(super) fn trial_rows(&self, phase: Phase, rows: u32) -> u32 {
        rows.min(self.lanes[phase as usize].max_rows())
    }

    /// Returns the plan of a pass that tuning measures with.
    pub(super) fn trial_plan(&self, phase: Phase, rows: u32, kernels: KernelSelection) -> Result<Plan, GpuError> {
        let lane = &self.lanes[phase as usize];
        lane.plan(&self.model, &self.kv, &self.sampling, &self.options, kernels, lane.trial(rows))
    }

    /// Writes what it reads.
    pub(super) fn write_trial(&self, phase: Phase, rows: u32) -> Result<(), GpuError> {
        let (device, vocab) = (self.model.device(), self.model.config().vocab);
        let lane = &self.lanes[phase as usize];
        lane.write_trial(device, &self.sampling, vocab, &lane.trial(rows))
    }

    /// Waits until the device has done all.
    pub(super) async fn wait(&self) -> Result<(), GpuError> {
        self.tokens.read(self.model.device(), &self.sampling.tokens, 1).await.map(|_| ())
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    pub(super) fn options(&self) -> &EngineOptions {
        &self.options
    }

    pub(super) fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// Dispatches of the program for drawn tokens; zero before the first.
    pub(super) fn decode_dispatches(&self) -> usize {
        self.lanes[1].program.plan().steps().len()
    }

    /// What the program for drawn tokens is made of, if their rows choose `experts` different experts in a layer.
    pub(super) fn decode_pass(&self, experts: f64) -> DecodePass {
        let Lane { program, pass, .. } = &self.lanes[1];
        let steps = program.plan().steps();
        DecodePass {
            rows: pass.map_or(0, |pass| pass.rows),
            dispatches: steps.len(),
            layer_dispatches: steps.iter().filter(|step| step.scope().layer.is_some()).count(),
            weight_bytes: weight_bytes(program.plan(), self.model.weights(), experts),
        }
    }

    /// Steps that are under way.
    pub(super) fn under_way(&self) -> usize {
        self.flights.len()
    }

    /// Forgets what is under way.
    pub(super) fn clear(&mut self) {
        self.flights.clear();
        self.loaded.fill(None);
    }

    /// Makes ready what a step needs. After an error, or when it was dropped, another step may be made ready.
    pub(super) async fn prepare(&mut self, step: &Step, work: &Work) -> Result<(), GpuError> {
        let penalised = work.batches.iter().any(|batch| batch.draws.penalised);
        if penalised && self.sampling.history.is_empty() {
            let (device, vocab) = (self.model.device(), self.model.config().vocab);
            self.sampling.history = History::for_all(device, self.options.sequences, vocab).await?;
            self.lanes.iter_mut().for_each(Lane::forget_program);
        }
        let limit = self.options.max_submit;
        for ((phase, lane), batch) in PHASES.into_iter().zip(&mut self.lanes).zip(&work.batches) {
            let rows = batch.len();
            if rows > 0 {
                let parts = match phase {
                    Phase::Prefill => self.pace.prompt_parts(rows, limit),
                    Phase::Decode => self.pace.drawn_parts(limit),
                };
                lane.prepare(&self.model, &self.kv, &self.sampling, &self.options, batch, parts).await?;
            }
        }
        self.copies.prepare(&self.model, &self.kv, &step.copies).await
    }

    /// A step's rows by kind, the rows whose logits are wanted sorted by what is done with them.
    pub(super) fn work(&self, step: &Step, drawings: &Drawings) -> Work {
        let mut work = Work::default();
        let [prompts, drawn] = &mut work.batches;
        for rows in &step.prompts {
            prompts.ids.extend(&rows.tokens);
            prompts.positions.extend((rows.position..).take(rows.tokens.len()).map(|position| [position, rows.slot]));
        }
        drawn.positions.extend(step.decode.iter().map(|row| [row.position, row.slot]));
        // The step numbers the drawn rows first.
        let first_prompt = step.decode.len() as u32;
        let (sequences, vocab) = (self.options.sequences, self.model.config().vocab);
        let mut sorted: [Vec<_>; 2] = Default::default();
        for pick in &step.picks {
            let (kind, row) = match pick.row.checked_sub(first_prompt) {
                Some(row) => (0, row),
                None => (1, pick.row),
            };
            let way = match drawing_of(drawings, pick) {
                Some(drawing) if !self.options.host_sampling => {
                    let options = drawing.sampler.options();
                    work.draws.push((pick.sequence, pick.slot));
                    if self.loaded.get(pick.slot as usize) != Some(&Some(drawing.number)) {
                        work.loads.push((pick.slot, drawing.clone()));
                    }
                    let draws = &mut work.batches[kind].draws;
                    (draws.sequences, draws.vocab) = (sequences, vocab);
                    draws.penalised |= options.penalises();
                    Some(sample::Way::of(options.cuts()))
                }
                _ => None,
            };
            sorted[kind].push((way, row, pick));
        }
        for (kind, mut picks) in sorted.into_iter().enumerate() {
            // Those for the host come last.
            picks.sort_by_key(|(way, row, _)| (way.is_none(), *way, *row));
            let batch = &mut work.batches[kind];
            for (place, (way, row, pick)) in picks.into_iter().enumerate() {
                batch.picks.push([row, pick.slot]);
                match way {
                    Some(way) => batch.draws.add(way),
                    None => {
                        let &Pick { sequence, request, give, .. } = pick;
                        work.host_rows[kind].push(HostRow { sequence, request, give, row: place });
                    }
                }
            }
        }
        work
    }

    /// Writes what a step's programs read.
    pub(super) fn write(&mut self, step: &Step, work: &Work) -> Result<(), GpuError> {
        let device = self.model.device();
        let max_blocks = u64::from(self.kv.shape.max_blocks());
        for changed in &step.blocks {
            let start = u64::from(changed.slot) * max_blocks + u64::from(changed.first);
            device.write_now(&self.kv.table, start, &changed.blocks)?;
        }
        for (lane, batch) in self.lanes.iter().zip(&work.batches) {
            if batch.len() > 0 {
                lane.write(device, batch)?;
            }
        }
        for row in &step.decode {
            // What the host draws, or is asked to compute as if it had been drawn, the device does not know.
            if let (true, Some(token)) = (self.options.host_sampling || row.given, row.token) {
                device.write_now(&self.sampling.tokens, row.slot.into(), &[token])?;
            }
        }
        work.loads.iter().try_for_each(|(slot, drawing)| self.load(drawing, *slot))
    }

    /// Gives the device the options of a request, and its state.
    fn load(&mut self, drawing: &Drawing, slot: u32) -> Result<(), GpuError> {
        let (device, vocab) = (self.model.device(), self.model.config().vocab);
        let (sampling, sampler, at) = (&self.sampling, &drawing.sampler, u64::from(slot));
        let options = sampler.options();
        device.write_now(&sampling.cuts, at, &[options.cuts()])?;
        device.write_now(&sampling.draws, at, &[sampler.seed_and_counter()])?;
        device.write_now(&sampling.penalties, at, &[options.penalties()])?;
        if options.penalises() {
            let start = at * u64::from(vocab);
            device.write_now(&sampling.history.counts, start, &sampler.counts(vocab))?;
            device.write_now(&sampling.history.bias, start, &sampler.biases(vocab))?;
        }
        if let Some(loaded) = self.loaded.get_mut(slot as usize) {
            *loaded = Some(drawing.number);
        }
        Ok(())
    }

    /// The programs of a step, in their order: what has to be copied, then a pass of each kind.
    pub(super) fn programs<'a>(&'a self, step: &Step, work: &'a Work) -> impl Iterator<Item = &'a Program> {
        let copies = (!step.copies.is_empty()).then(|| self.copies.program());
        let passes = self.lanes.iter().zip(&work.batches).filter(|(_, batch)| batch.len() > 0);
        copies.into_iter().chain(passes.map(|(lane, _)| &lane.program))
    }

    /// Sends a step's programs to the device. Waits only for steps of a plan that the host runs, and for profiles.
    pub(super) async fn submit(&mut self, step: &Step, work: &Work) -> Result<(), GpuError> {
        let device = self.model.device();
        if !step.copies.is_empty() {
            self.copies.program().submit(device)?;
        }
        for ((phase, lane), batch) in PHASES.into_iter().zip(&self.lanes).zip(&work.batches) {
            let rows = batch.len();
            if rows == 0 {
                continue;
            }
            if self.options.profile {
                let stages = lane.program.profile(device).await?;
                self.profile.add(PassKind::of(phase, rows), rows, &stages);
            } else {
                lane.program.run(device).await?;
            }
        }
        Ok(())
    }

    /// Begins to read what a step that has been sent leaves.
    pub(super) fn take_off(&mut self, step: &Step, work: Work, submitted: Moment) -> Result<(), GpuError> {
        let device = self.model.device();
        let tokens = self.tokens.start(device, &self.sampling.tokens, self.options.sequences.into())?;
        let vocab = u64::from(self.model.config().vocab);
        let mut logits = Vec::new();
        let rows = StepRows { prompt: work.batches[0].len(), drawn: work.batches[1].len() };
        for ((lane, batch), host_rows) in self.lanes.iter().zip(&work.batches).zip(work.host_rows) {
            if batch.host_rows() > 0 {
                // Those rows are the last: they are read with those before them.
                let len = batch.picks.len() as u64 * vocab;
                logits.push((host_rows, lane.logits.start(device, &lane.activations.logits, len)?));
            }
        }
        self.flights.push_back(Flight {
            step: step.id,
            rows,
            submitted,
            draws: work.draws,
            tokens,
            read_tokens: None,
            logits,
            read_logits: Vec::new(),
        });
        Ok(())
    }

    /// Waits for the oldest step that is under way; `None` when there is none. May be dropped at any await.
    pub(super) async fn land(&mut self) -> Result<Option<Landed>, GpuError> {
        let device = self.model.device();
        let Some(flight) = self.flights.front_mut() else { return Ok(None) };
        if flight.read_tokens.is_none() {
            let (read, just_now) = watched(flight.tokens.wait(device)).await;
            flight.read_tokens = Some(read?);
            self.pace.done(flight.rows, flight.submitted, just_now);
        }
        while let Some((_, pending)) = flight.logits.get_mut(flight.read_logits.len()) {
            let logits = pending.wait(device).await?;
            flight.read_logits.push(logits);
        }
        let Some(flight) = self.flights.pop_front() else { return Ok(None) };
        let read = flight.read_tokens.unwrap_or_default();
        let token = |slot: u32| read.get(slot as usize).copied().unwrap_or(sample::NO_TOKEN);
        let vocab = self.model.config().vocab as usize;
        let mut logits = Vec::new();
        for ((host_rows, _), read) in flight.logits.into_iter().zip(flight.read_logits) {
            let row = |row: &HostRow| read.get(row.row * vocab..(row.row + 1) * vocab).unwrap_or_default().to_vec();
            logits.extend(host_rows.into_iter().map(|host_row| (host_row, row(&host_row))));
        }
        Ok(Some(Landed {
            step: flight.step,
            tokens: flight.draws.into_iter().map(|(sequence, slot)| (sequence, token(slot))).collect(),
            logits,
        }))
    }

    pub(super) fn device(&self) -> &Device {
        self.model.device()
    }

    /// Compiles on `device`, its own or the one that it is a dry run of, what passes of every size need, without touching any
    /// sequence.
    pub(super) async fn compile(&self, device: &Device) -> Result<(), GpuError> {
        for lane in &self.lanes {
            lane.compile(device, &self.model, &self.kv, &self.sampling, &self.options).await?;
        }
        self.copies.compile(device, &self.kv).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{
            SamplingOptions,
            scheduler::{Limits, Scheduler},
        },
        kv::Pool,
    };

    #[test]
    fn a_request_that_was_given_up_draws_nothing_for_the_next() {
        let limits = Limits {
            context: 8,
            slots: 2,
            prefill_rows: 8,
            logit_rows: 1,
            sharing: false,
            share_drawn: false,
            run_ahead: false,
        };
        let mut scheduler = Scheduler::new(limits, Pool::new(2, 8));
        let (one, other) = (scheduler.open(), scheduler.open());
        let sampler = Sampler::new(SamplingOptions::default()).expect("a sampler");
        let drawings = Drawings::from([(one, Drawing { number: 7, sampler })]);
        let pick = |sequence, request, give| Pick { row: 0, sequence, request, slot: 0, give };
        let drawn = |pick| drawing_of(&drawings, &pick).map(|drawing| drawing.number);
        assert_eq!(drawn(pick(one, 7, Give::Draw)), Some(7));
        // Planned for the request before; of nobody; for the host.
        assert_eq!(drawn(pick(one, 6, Give::Draw)), None);
        assert_eq!(drawn(pick(other, 7, Give::Draw)), None);
        assert_eq!(drawn(pick(one, 7, Give::Logits { last: true })), None);
    }
}
