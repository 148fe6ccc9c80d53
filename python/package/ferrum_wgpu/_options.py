"""The keyword arguments of replies, for type checkers."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class ReplyOptions(TypedDict, total=False):
    """The options of a reply. Those that are not given are the file's (`general.sampling.*`), else the library's."""

    temperature: float | None
    """Divides the logits; 0 is greedy."""
    top_k: int | None
    """Keeps so many most likely tokens; 0 keeps all."""
    top_p: float | None
    """Keeps the most likely tokens until their probabilities sum up to it."""
    min_p: float | None
    """Drops tokens less likely than `min_p` times the most likely one."""
    xtc_probability: float | None
    """The probability with which XTC drops the likely tokens but the least likely of them."""
    xtc_threshold: float | None
    """The least probability of a token that XTC calls likely (default: 0.1)."""
    mirostat: int | None
    """The version of Mirostat, 1 or 2, which replaces `top_k`, `top_p`, `min_p` and XTC; 0 is none."""
    mirostat_tau: float | None
    """The surprise of tokens in bits that Mirostat aims at (default: 5)."""
    mirostat_eta: float | None
    """The learning rate of Mirostat (default: 0.1)."""
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    """Is added to the logits of tokens, by id."""
    seed: int | None
    """Equal seeds give equal tokens (default: 0)."""
    max_tokens: int | None
    """The most tokens of a reply (default: what the context holds)."""
    stop: str | Sequence[str] | None
    """The reply ends before any of these."""
    json_schema: Mapping[str, Any] | str | None
    """The reply is JSON by this schema."""
    regex: str | None
    """The reply matches this expression."""
    grammar: str | None
    """The reply follows this grammar: llguidance's Lark, or llama.cpp's GBNF."""


class TemplateOptions(TypedDict, total=False):
    """The options of a chat template."""

    thinking: bool | None
    """Whether the model thinks before it answers, if its template knows this."""
    tools: Sequence[Mapping[str, Any]] | None
    """Definitions of tools, in OpenAI's form."""
    documents: Sequence[Mapping[str, Any]] | None
    """Documents for the model to answer from."""
    template_variables: Mapping[str, Any] | None
    """Further variables of the template."""


class ChatOptions(ReplyOptions, TemplateOptions, total=False):
    """The options of a conversation."""
