//! The tensors of a model as a tree: of what a file has, or of buffers on a device.

/// The tensors of a model: matrices `M` and vectors `V`.
#[derive(Debug)]
pub(crate) struct ModelTree<M, V> {
    pub(crate) embedding: M,
    pub(crate) layers: Vec<Layer<M, V>>,
    pub(crate) output_norm: V,
    /// `None` where the embedding is the head too.
    pub(crate) output: Option<M>,
}

/// The tensors of a layer.
#[derive(Debug)]
pub(crate) struct Layer<M, V> {
    pub(crate) attn_norm: V,
    /// The Q, K and V projections in this order. Adjacent ones of one format are one matrix.
    pub(crate) qkv: Vec<Linear<M, V>>,
    pub(crate) o: Linear<M, V>,
    pub(crate) qk_norm: Option<QkNorm<V>>,
    pub(crate) ffn_norm: V,
    pub(crate) feed_forward: FeedForwardTree<M, V>,
}

/// A matrix and the bias that some files add to its output.
#[derive(Debug)]
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
    /// `None` for a dense block.
    pub(crate) router: Option<M>,
    pub(crate) gate_up: GateUp<M, V>,
    pub(crate) down: Linear<M, V>,
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
            output: self.output.as_ref().map(|output| map.matrix(output)).transpose()?,
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
    /// Returns all matrices, in the order of [`ModelTree::try_map`].
    pub(crate) fn matrices(&self) -> Vec<&M> {
        let mut all = Collect::default();
        let _ = self.try_map(&mut all);
        all.matrices
    }

    fn try_map<'a, T: MapTensors<'a, M, V>>(&'a self, map: &mut T) -> Result<Layer<T::Matrix, T::Vector>, T::Error> {
        let FeedForwardTree { router, gate_up, down } = &self.feed_forward;
        Ok(Layer {
            attn_norm: map.vector(&self.attn_norm)?,
            qkv: self.qkv.iter().map(|linear| linear.try_map(map)).collect::<Result<_, _>>()?,
            o: self.o.try_map(map)?,
            qk_norm: match &self.qk_norm {
                Some(QkNorm { both, key }) => Some(QkNorm { both: map.vector(both)?, key: map.copy(key)? }),
                None => None,
            },
            ffn_norm: map.vector(&self.ffn_norm)?,
            feed_forward: FeedForwardTree {
                router: router.as_ref().map(|router| map.matrix(router)).transpose()?,
                gate_up: match gate_up {
                    GateUp::Fused(fused) => GateUp::Fused(map.matrix(fused)?),
                    GateUp::Separate { gate, up } => {
                        GateUp::Separate { gate: gate.try_map(map)?, up: up.try_map(map)? }
                    }
                },
                down: down.try_map(map)?,
            },
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
