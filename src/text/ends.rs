//! The tokens that end a reply.

use super::tokenizer::TokenKind;

/// Names of tokens that end a turn, a message or a document. Files forget to name them, and give them any type.
const ENDS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|eot|>",
    "<|EOT|>",
    "<|eom|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|endofturn|>",
    "<|end_of_role|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|tool_call_end|>",
    "<|tool_response>",
    "[e~[",
    // Padding, repository and file marks of fill-in-the-middle.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
];

/// Names of ends that are also plain words: ends only if the file makes them control or user-defined tokens.
const ENDS_IF_SPECIAL: &[&str] = &["</s>", "<eos>", "_<EOT>", "<EOT>", "[EOT]", "[EOS]", "<PAD>", "[PAD]", "<REPO>"];

/// Names of control tokens that start a turn of somebody else. A reply never contains them.
const STARTS_OF_TURN: &[&str] = &[
    "<|im_start|>",
    "<|im_user|>",
    "<|im_system|>",
    "<|start_header_id|>",
    "<|header_start|>",
    "<start_of_turn>",
    "<|turn>",
    "<|start_of_role|>",
    "<|START_OF_TURN_TOKEN|>",
    "<|user|>",
    "<|system|>",
    "<|observation|>",
    "<|User|>",
    "<｜User｜>",
    "[INST]",
];

/// Tokens between the parts of a reply in OpenAI's harmony format.
const HARMONY: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Returns the tokens that end a reply, in ascending order, and makes those with well-known names control tokens.
pub(super) fn find(tokens: &[String], kinds: &mut [TokenKind], eos: Option<u32>, extra: &[u32]) -> Vec<u32> {
    let mut stops: Vec<u32> = eos.into_iter().chain(extra.iter().copied()).collect();
    let has = |kinds: &[TokenKind], name: &str| {
        tokens.iter().zip(kinds).any(|(token, kind)| token == name && *kind != TokenKind::Unused)
    };
    let is_harmony = (has(kinds, "<|return|>") && has(kinds, "<|call|>")) || has(kinds, "<|flush|>");
    // Gemma 4 has them as text.
    let keeps_slash_s = has(kinds, "<|tool_response>");
    for ((id, name), kind) in (0..).zip(tokens).zip(kinds) {
        let name = name.as_str();
        // Most tokens are words.
        if !name.starts_with(['<', '[', '_']) {
            continue;
        }
        let special = kind.is_control() || *kind == TokenKind::UserDefined;
        if is_harmony && (HARMONY.contains(&name) || name == "<|end|>") {
            // Within a reply, another part follows.
            *kind = TokenKind::ShownControl;
            continue;
        }
        let is_end = ENDS.contains(&name)
            || (special && ENDS_IF_SPECIAL.contains(&name) && !(keeps_slash_s && name == "</s>"))
            || (special && STARTS_OF_TURN.contains(&name));
        if is_end {
            stops.push(id);
        }
        if is_end || (stops.contains(&id) && special) {
            *kind = TokenKind::Control;
        }
    }
    stops.sort_unstable();
    stops.dedup();
    stops
}
