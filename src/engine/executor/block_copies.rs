//! Copy-on-write of KV blocks: a sequence that writes to a shared block gets a copy of it.

use crate::{
    gpu::{Buffer, Device, GpuError, Plan, Program, Recorder, Stage},
    kernels::attn::copy_blocks,
    kv::BlockCopy,
    model::{KvCache, Model},
};

/// The program that copies blocks, in all layers of their groups.
#[derive(Debug)]
pub(super) struct BlockCopies {
    program: Program,
    /// Source and target of each copy, by group of layers.
    copies: Vec<Buffer<[u32; 2]>>,
    /// The number of copies of each group that the program is prepared for.
    prepared: Option<Vec<usize>>,
}

impl BlockCopies {
    /// Allocates room for up to `max_copies` copies of each group at a time.
    pub(super) async fn new(device: &Device, groups: usize, max_copies: u32) -> Result<Self, GpuError> {
        let mut copies = Vec::new();
        for _ in 0..groups {
            copies.push(device.alloc("block copies", max_copies.into()).await?);
        }
        Ok(Self { program: Program::new(device), copies, prepared: None })
    }

    /// Prepares the program for `copies`, each with its group.
    pub(super) async fn prepare(
        &mut self,
        model: &Model,
        kv: &KvCache,
        copies: &[(usize, BlockCopy)],
    ) -> Result<(), GpuError> {
        if copies.is_empty() {
            return Ok(());
        }
        let device = model.device();
        let mut by_group: Vec<Vec<[u32; 2]>> = vec![Vec::new(); self.copies.len()];
        copies.iter().for_each(|(group, copy)| by_group[*group].push([copy.from, copy.to]));
        let counts: Vec<usize> = by_group.iter().map(Vec::len).collect();
        if self.prepared.as_ref() != Some(&counts) {
            self.prepared = None;
            self.program.prepare(device, self.plan(model, kv, &counts)?).await?;
            self.prepared = Some(counts);
        }
        let written = self.copies.iter().zip(&by_group).filter(|(_, copies)| !copies.is_empty());
        written.into_iter().try_for_each(|(buffer, copies)| device.write_now(buffer, 0, copies))
    }

    /// Records a plan with its kernel.
    pub(super) fn kernel_plan(&self, model: &Model, kv: &KvCache) -> Result<Plan, GpuError> {
        self.plan(model, kv, &vec![1; self.copies.len()])
    }

    /// Records the copies of each group.
    fn plan(&self, model: &Model, kv: &KvCache, counts: &[usize]) -> Result<Plan, GpuError> {
        let mut rec = Recorder::new();
        rec.scope(Stage::CopyBlocks);
        for (i, layer) in (0..).zip(&kv.layers) {
            let group = kv.shape.group_of(model.config().layer_attention(i).window);
            let (count, blocks) = (counts[group] as u32, kv.shape.group_blocks(group));
            let Some(layer) = layer.kv().filter(|_| count > 0) else { continue };
            rec.dispatch(
                copy_blocks::CopyBlocks,
                (),
                copy_blocks::Params { words: (layer.len() / u64::from(blocks)) as u32, count, blocks },
                copy_blocks::Binds { copies: &self.copies[group], kv: layer },
            )?;
        }
        Ok(rec.finish())
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }
}
