//! The published prefixes: a tree (trie) in which a node's path from the root is a sequence's prefix.

use std::{collections::HashMap, sync::Arc};

/// A trie of whole blocks of tokens. Children are keyed by their tokens, not by hashes of them: a collision cannot
/// share a block.
#[derive(Debug)]
pub(super) struct Prefixes {
    /// The first node is the root.
    nodes: Vec<Node>,
    /// Nodes that can be reused.
    unused: Vec<u32>,
}

/// A prefix of whole blocks.
#[derive(Debug, Default)]
struct Node {
    parent: u32,
    /// The tokens of its last block.
    tokens: Arc<[u32]>,
    /// The id of that block. A node without a block stays while blocks follow it: they are found again when it gets a
    /// block.
    block: Option<u32>,
    children: HashMap<Arc<[u32]>, u32>,
}

impl Prefixes {
    /// The empty prefix.
    pub(super) const ROOT: u32 = 0;

    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()], unused: Vec::new() }
    }

    /// Returns the node that continues `node` with `tokens`.
    pub(super) fn child(&self, node: u32, tokens: &[u32]) -> Option<u32> {
        self.nodes[node as usize].children.get(tokens).copied()
    }

    /// Returns the block of a node.
    pub(super) fn block(&self, node: u32) -> Option<u32> {
        self.nodes[node as usize].block
    }

    /// Sets the block of the node that continues `node` with `tokens`, which has none, and returns that node. Without a
    /// block, one must follow it.
    pub(super) fn insert(&mut self, node: u32, tokens: &[u32], block: Option<u32>) -> u32 {
        if let Some(child) = self.child(node, tokens) {
            self.nodes[child as usize].block = block;
            return child;
        }
        let tokens: Arc<[u32]> = tokens.into();
        let new = Node { parent: node, tokens: Arc::clone(&tokens), block, children: HashMap::new() };
        let child = match self.unused.pop() {
            Some(child) => {
                self.nodes[child as usize] = new;
                child
            }
            None => {
                self.nodes.push(new);
                self.nodes.len() as u32 - 1
            }
        };
        self.nodes[node as usize].children.insert(tokens, child);
        child
    }

    /// Removes a node's block, and the nodes that then lead to no block.
    pub(super) fn remove(&mut self, node: u32) {
        self.nodes[node as usize].block = None;
        self.prune(node);
    }

    /// Removes a node and those before it while they lead to no block.
    pub(super) fn prune(&mut self, mut node: u32) {
        while node != Self::ROOT {
            let Node { block: None, children, .. } = &self.nodes[node as usize] else { return };
            if !children.is_empty() {
                return;
            }
            let gone = std::mem::take(&mut self.nodes[node as usize]);
            self.unused.push(node);
            node = gone.parent;
            self.nodes[node as usize].children.remove(&gone.tokens);
        }
    }

    /// Returns all nodes that have a block, with it, or what is wrong with the tree.
    pub(super) fn audit(&self) -> Result<Vec<(u32, u32)>, String> {
        let (mut found, mut reached, mut left) = (Vec::new(), 0, vec![Self::ROOT]);
        while let Some(node) = left.pop() {
            reached += 1;
            let Node { block, children, .. } = &self.nodes[node as usize];
            found.extend(block.map(|block| (node, block)));
            if node != Self::ROOT && block.is_none() && children.is_empty() {
                return Err(format!("node {node} leads to no block"));
            }
            for (tokens, child) in children {
                let Node { parent, tokens: own, .. } = &self.nodes[*child as usize];
                if *parent != node || own != tokens {
                    return Err(format!("node {child} is not the child of {node}"));
                }
                left.push(*child);
            }
        }
        if reached + self.unused.len() != self.nodes.len() {
            return Err(format!("{reached} nodes and {} unused of {}", self.unused.len(), self.nodes.len()));
        }
        Ok(found)
    }
}
