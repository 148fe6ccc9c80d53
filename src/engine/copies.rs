//! Copies of blocks that a sequence writes to and another one has too.

use crate::{
    gpu::{Buffer, Device, GpuError, Program, Recorder},
    kernels::attn::copy_blocks,
    kv::BlockCopy,
    model::{KvCache, Model},
};

/// The program that copies blocks, in all layers.
#[derive(Debug)]
pub(super) struct Copies {
    program: Program,
    /// From and to.
    pairs: Buffer<[u32; 2]>,
    /// How many pairs the program copies.
    prepared: Option<usize>,
}

impl Copies {
    /// For up to `most` blocks at a time.
    pub(super) async fn new(device: &Device, most: u32) -> Result<Self, GpuError> {
        let pairs = device.alloc("blocks to copy", most.into()).await?;
        Ok(Self { program: Program::new(device), pairs, prepared: None })
    }

    /// Makes the program ready that copies `copies`.
    pub(super) async fn prepare(&mut self, model: &Model, kv: &KvCache, copies: &[BlockCopy]) -> Result<(), GpuError> {
        if copies.is_empty() {
            return Ok(());
        }
        let (device, shape) = (model.device(), &kv.shape);
        if self.prepared != Some(copies.len()) {
            let mut rec = Recorder::new();
            rec.scope("copied blocks");
            for layer in &kv.layers {
                rec.dispatch(
                    copy_blocks::CopyBlocks,
                    (),
                    copy_blocks::Params {
                        words: (layer.len() / u64::from(shape.blocks)) as u32,
                        pairs: copies.len() as u32,
                        blocks: shape.blocks,
                    },
                    copy_blocks::Binds { pairs: &self.pairs, kv: layer },
                )?;
            }
            self.prepared = None;
            self.program.prepare(device, rec.finish()).await?;
            self.prepared = Some(copies.len());
        }
        let pairs: Vec<[u32; 2]> = copies.iter().map(|copy| [copy.from, copy.to]).collect();
        device.write_now(&self.pairs, 0, &pairs)
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }
}
