//! Copy-on-write of KV blocks: a sequence that writes to a shared block gets a copy of it.

use crate::{
    gpu::{Buffer, Device, GpuError, Plan, Program, Recorder, Stage},
    kernels::attn::copy_blocks,
    kv::BlockCopy,
    model::{KvCache, LayerCache, Model},
};

/// The program that copies blocks, in all layers.
#[derive(Debug)]
pub(super) struct BlockCopies {
    program: Program,
    /// Source and target of each copy.
    copies: Buffer<[u32; 2]>,
    /// The number of copies that the program is prepared for.
    prepared: Option<usize>,
}

impl BlockCopies {
    /// Allocates room for up to `max_copies` copies at a time.
    pub(super) async fn new(device: &Device, max_copies: u32) -> Result<Self, GpuError> {
        let copies = device.alloc("block copies", max_copies.into()).await?;
        Ok(Self { program: Program::new(device), copies, prepared: None })
    }

    /// Prepares the program for `copies`.
    pub(super) async fn prepare(&mut self, model: &Model, kv: &KvCache, copies: &[BlockCopy]) -> Result<(), GpuError> {
        if copies.is_empty() {
            return Ok(());
        }
        let device = model.device();
        if self.prepared != Some(copies.len()) {
            self.prepared = None;
            self.program.prepare(device, self.plan(kv, copies.len() as u32)?).await?;
            self.prepared = Some(copies.len());
        }
        let copies: Vec<[u32; 2]> = copies.iter().map(|copy| [copy.from, copy.to]).collect();
        device.write_now(&self.copies, 0, &copies)
    }

    /// Compiles its kernel.
    pub(super) async fn precompile(&self, device: &Device, kv: &KvCache) -> Result<(), GpuError> {
        self.plan(kv, 1)?.compile(device).await
    }

    fn plan(&self, kv: &KvCache, copies: u32) -> Result<Plan, GpuError> {
        let blocks = kv.shape.blocks;
        let mut rec = Recorder::new();
        rec.scope(Stage::CopyBlocks);
        for layer in kv.layers.iter().filter_map(LayerCache::kv) {
            rec.dispatch(
                copy_blocks::CopyBlocks,
                (),
                copy_blocks::Params { words: (layer.len() / u64::from(blocks)) as u32, count: copies, blocks },
                copy_blocks::Binds { copies: &self.copies, kv: layer },
            )?;
        }
        Ok(rec.finish())
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }
}
