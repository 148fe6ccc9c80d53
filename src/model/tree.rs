//! The tensors of a model as a tree: of what a file has, or of buffers on a device.

/// The tensors of a model: matrices `M` and vectors `V`.
#[derive(Debug)]
pub(crate) struct ModelTree<M, V> {
    pub(crate) embedding: M,
    pub(crate) layers: Vec<Layer<M, V>>,
    pub(crate) output_norm: V,
    /// `None` where the embedding is the head too.
    pub(crate) output: Option<Linear<M, V>>,
}

/// The tensors of a layer.
#[derive(Debug)]
pub(crate) struct Layer<M, V> {
    pub(crate) attn_norm: V,
    pub(crate) mixer: Mixer<M, V>,
    /// The norm of what attention adds to the residual.
    pub(crate) attn_post_norm: Option<V>,
    pub(crate) ffn_norm: V,
    /// The norm of what the feed-forward block adds to the residual.
    pub(crate) ffn_post_norm: Option<V>,
    pub(crate) feed_forward: FeedForwardTree<M, V>,
}

/// What mixes the tokens of a sequence.
#[derive(Debug)]
pub(crate) enum Mixer<M, V> {
    Attention(AttentionTree<M, V>),
    DeltaNet(DeltaNetTree<M, V>),
}

/// The tensors of an attention block.
#[derive(Debug)]
pub(crate) struct AttentionTree<M, V> {
    /// The Q, K and V projections in this order. Adjacent ones of one format are one matrix.
    pub(crate) qkv: Vec<Linear<M, V>>,
    /// The projection whose sigmoid multiplies the output.
    pub(crate) gate: Option<Linear<M, V>>,
    pub(crate) o: Linear<M, V>,
    pub(crate) qk_norm: QkNormTree<V>,
    /// Each query head's sink.
    pub(crate) sinks: Option<V>,
}

/// The tensors of a gated delta net.
#[derive(Debug)]
pub(crate) struct DeltaNetTree<M, V> {
    /// The projections of channels (queries, keys, values), output gates, α and β in this order. Adjacent ones of one format
    /// are one matrix.
    pub(crate) projections: Vec<Linear<M, V>>,
    /// The convolution's weights `[channels, 4]`.
    pub(crate) conv: V,
    /// The gates' constants `[2, value_heads]`: `a`, `dt`.
    pub(crate) gates: V,
    /// The norm of output heads.
    pub(crate) norm: V,
    pub(crate) out: Linear<M, V>,
}

/// The norms of queries and keys.
#[derive(Debug)]
pub(crate) enum QkNormTree<V> {
    /// None.
    None,
    /// Of each head.
    Head(QkNorm<V>),
    /// Of whole projections.
    Projection {
        /// `[q_len]`.
        q: V,
        /// `[kv_len]`.
        k: V,
    },
}

impl<V> QkNormTree<V> {
    /// Returns the norms of heads, if there are any.
    pub(crate) fn head(&self) -> Option<&QkNorm<V>> {
        match self {
            Self::Head(norm) => Some(norm),
            Self::None | Self::Projection { .. } => None,
        }
    }
}

/// A matrix and the bias that some files add to its output.
#[derive(Clone, Debug)]
pub(crate) struct Linear<M, V> {
    pub(crate) matrix: M,
    pub(crate) bias: Option<V>,
}

/// The norms of query and key heads.
#[derive(Debug)]
pub(crate) struct QkNorm<V> {
    /// `[2, head_dim]`: query heads, key heads.
    pub(crate) both: V,
    /// `[head_dim]`: key heads. A copy of the second half of `both`.
    pub(crate) key: V,
}

/// The tensors of a feed-forward block.
#[derive(Debug)]
pub(crate) struct FeedForwardTree<M, V> {
    /// The projections of the experts' logits and of the shared expert's, in this order; none for a dense block. Those of one
    /// format are one matrix.
    pub(crate) router: Vec<Linear<M, V>>,
    pub(crate) shared: SharedExpert<M, V>,
    pub(crate) gate_up: GateUp<M, V>,
    pub(crate) down: Linear<M, V>,
}

/// An expert that every token uses.
#[derive(Debug)]
pub(crate) enum SharedExpert<M, V> {
    /// None.
    None,
    /// The last expert of the stacks.
    Stacked,
    /// One with tensors of its own, where formats or sizes differ.
    Separate { gate_up: GateUp<M, V>, down: Linear<M, V> },
}

/// The gate and up projections.
#[derive(Debug)]
pub(crate) enum GateUp<M, V> {
    /// One matrix of interleaved rows: for tensors of one format without biases.
    Fused(M),
    /// A matrix each.
    Separate { gate: Linear<M, V>, up: Linear<M, V> },
}

impl<M, V> ModelTree<M, V> {
    /// Returns the tree of what `map` returns for each tensor. The order is the same for all trees of one shape.
    pub(crate) fn try_map<'a, T: MapTensors<'a, M, V>>(
        &'a self,
        map: &mut T,
    ) -> Result<ModelTree<T::Matrix, T::Vector>, T::Error> {
        Ok(ModelTree {
            embedding: map.matrix(&self.embedding)?,
            layers: self.layers.iter().map(|layer| layer.try_map(map)).collect::<Result<_, _>>()?,
            output_norm: map.vector(&self.output_norm)?,
            output: self.output.as_ref().map(|output| output.try_map(map)).transpose()?,
        })
    }

    /// Returns all matrices, in the order of [`ModelTree::try_map`].
    pub(crate) fn matrices(&self) -> Vec<&M> {
        let mut all = Collect::default();
        let _ = self.try_map(&mut all);
        all.matrices
    }

    /// Returns all vectors but the copies, in the order of [`ModelTree::try_map`].
    pub(crate) fn vectors(&self) -> Vec<&V> {
        let mut all = Collect::default();
        let _ = self.try_map(&mut all);
        all.vectors
    }
}

impl<M, V> Layer<M, V> {
    /// Returns the norms of query and key heads, if there are any.
    pub(crate) fn head_norms(&self) -> Option<&QkNorm<V>> {
        match &self.mixer {
            Mixer::Attention(attention) => attention.qk_norm.head(),
            Mixer::DeltaNet(_) => None,
        }
    }

    /// Returns all matrices, in the order of [`ModelTree::try_map`].
    pub(crate) fn matrices(&self) -> Vec<&M> {
        let mut all = Collect::default();
        let _ = self.try_map(&mut all);
        all.matrices
    }

    fn try_map<'a, T: MapTensors<'a, M, V>>(&'a self, map: &mut T) -> Result<Layer<T::Matrix, T::Vector>, T::Error> {
        Ok(Layer {
            attn_norm: map.vector(&self.attn_norm)?,
            mixer: match &self.mixer {
                Mixer::Attention(attention) => Mixer::Attention(attention.try_map(map)?),
                Mixer::DeltaNet(net) => Mixer::DeltaNet(net.try_map(map)?),
            },
            attn_post_norm: optional(&self.attn_post_norm, map)?,
            ffn_norm: map.vector(&self.ffn_norm)?,
            ffn_post_norm: optional(&self.ffn_post_norm, map)?,
            feed_forward: self.feed_forward.try_map(map)?,
        })
    }
}

impl<M, V> AttentionTree<M, V> {
    fn try_map<'a, T: MapTensors<'a, M, V>>(
        &'a self,
        map: &mut T,
    ) -> Result<AttentionTree<T::Matrix, T::Vector>, T::Error> {
        Ok(AttentionTree {
            qkv: self.qkv.iter().map(|linear| linear.try_map(map)).collect::<Result<_, _>>()?,
            gate: self.gate.as_ref().map(|gate| gate.try_map(map)).transpose()?,
            o: self.o.try_map(map)?,
            qk_norm: match &self.qk_norm {
                QkNormTree::None => QkNormTree::None,
                QkNormTree::Head(QkNorm { both, key }) => {
                    QkNormTree::Head(QkNorm { both: map.vector(both)?, key: map.copy(key)? })
                }
                QkNormTree::Projection { q, k } => QkNormTree::Projection { q: map.vector(q)?, k: map.vector(k)? },
            },
            sinks: optional(&self.sinks, map)?,
        })
    }
}

impl<M, V> DeltaNetTree<M, V> {
    fn try_map<'a, T: MapTensors<'a, M, V>>(
        &'a self,
        map: &mut T,
    ) -> Result<DeltaNetTree<T::Matrix, T::Vector>, T::Error> {
        Ok(DeltaNetTree {
            projections: self.projections.iter().map(|linear| linear.try_map(map)).collect::<Result<_, _>>()?,
            conv: map.vector(&self.conv)?,
            gates: map.vector(&self.gates)?,
            norm: map.vector(&self.norm)?,
            out: self.out.try_map(map)?,
        })
    }
}

fn optional<'a, M, V, T: MapTensors<'a, M, V>>(
    vector: &'a Option<V>,
    map: &mut T,
) -> Result<Option<T::Vector>, T::Error> {
    vector.as_ref().map(|vector| map.vector(vector)).transpose()
}

impl<M, V> FeedForwardTree<M, V> {
    fn try_map<'a, T: MapTensors<'a, M, V>>(
        &'a self,
        map: &mut T,
    ) -> Result<FeedForwardTree<T::Matrix, T::Vector>, T::Error> {
        let shared = match &self.shared {
            SharedExpert::None => SharedExpert::None,
            SharedExpert::Stacked => SharedExpert::Stacked,
            SharedExpert::Separate { gate_up, down } => {
                SharedExpert::Separate { gate_up: gate_up.try_map(map)?, down: down.try_map(map)? }
            }
        };
        Ok(FeedForwardTree {
            router: self.router.iter().map(|linear| linear.try_map(map)).collect::<Result<_, _>>()?,
            shared,
            gate_up: self.gate_up.try_map(map)?,
            down: self.down.try_map(map)?,
        })
    }
}

impl<M, V> GateUp<M, V> {
    fn try_map<'a, T: MapTensors<'a, M, V>>(&'a self, map: &mut T) -> Result<GateUp<T::Matrix, T::Vector>, T::Error> {
        Ok(match self {
            Self::Fused(fused) => GateUp::Fused(map.matrix(fused)?),
            Self::Separate { gate, up } => GateUp::Separate { gate: gate.try_map(map)?, up: up.try_map(map)? },
        })
    }
}

impl<M, V> Linear<M, V> {
    fn try_map<'a, T: MapTensors<'a, M, V>>(&'a self, map: &mut T) -> Result<Linear<T::Matrix, T::Vector>, T::Error> {
        let bias = self.bias.as_ref().map(|bias| map.vector(bias)).transpose()?;
        Ok(Linear { matrix: map.matrix(&self.matrix)?, bias })
    }
}

/// Maps the tensors of a tree.
pub(crate) trait MapTensors<'a, M, V> {
    type Matrix;
    type Vector;
    type Error;

    /// Maps a matrix.
    fn matrix(&mut self, matrix: &'a M) -> Result<Self::Matrix, Self::Error>;
    /// Maps a vector.
    fn vector(&mut self, vector: &'a V) -> Result<Self::Vector, Self::Error>;
    /// Maps a copy of a part of a vector.
    fn copy(&mut self, vector: &'a V) -> Result<Self::Vector, Self::Error>;
}

/// Collects the tensors of a tree.
struct Collect<'a, M, V> {
    matrices: Vec<&'a M>,
    vectors: Vec<&'a V>,
}

impl<M, V> Default for Collect<'_, M, V> {
    fn default() -> Self {
        Self { matrices: Vec::new(), vectors: Vec::new() }
    }
}

impl<'a, M, V> MapTensors<'a, M, V> for Collect<'a, M, V> {
    type Matrix = ();
    type Vector = ();
    type Error = std::convert::Infallible;

    fn matrix(&mut self, matrix: &'a M) -> Result<(), Self::Error> {
        self.matrices.push(matrix);
        Ok(())
    }

    fn vector(&mut self, vector: &'a V) -> Result<(), Self::Error> {
        self.vectors.push(vector);
        Ok(())
    }

    fn copy(&mut self, _: &'a V) -> Result<(), Self::Error> {
        Ok(())
    }
}
