from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, final, overload

from typing_extensions import Self, Unpack

from ._options import ChatOptions, ReplyOptions, TemplateOptions

__all__ = [
    "BusyError",
    "Chat",
    "CompletionStream",
    "ContextFullError",
    "DeviceError",
    "DeviceInfo",
    "DeviceLostError",
    "Engine",
    "EngineError",
    "Error",
    "FileFormatError",
    "GrammarError",
    "ModelError",
    "OutOfMemoryError",
    "Reply",
    "RequestError",
    "TextError",
    "__version__",
    "devices",
]

__version__: str

class Error(Exception):
    """An error of this package; the base class of the others."""

class FileFormatError(Error):
    """The file is not a valid GGUF file."""

class ModelError(Error):
    """The model is not supported, or its file is inconsistent."""

class TextError(Error):
    """The tokenizer or the chat template failed."""

class DeviceError(Error):
    """There is no such device, or it failed."""

class DeviceLostError(DeviceError):
    """The device is lost. Engine.recover opens it again."""

class OutOfMemoryError(DeviceError):
    """The model or a buffer does not fit in the memory."""

class EngineError(Error):
    """A request failed."""

class BusyError(EngineError):
    """The conversation has a reply in progress."""

class ContextFullError(EngineError):
    """The tokens do not fit in the context or KV cache."""

class GrammarError(Error):
    """The schema, expression or grammar cannot be used."""

class RequestError(Error):
    """A request in OpenAI's form failed. It has `status`, `param` (the field's name or None) and `code`."""

    status: int
    param: str | None
    code: str | None

@final
class DeviceInfo:
    """A device that models can be loaded to."""

    @property
    def index(self) -> int:
        """Its index, for `Engine(device=...)`."""
    @property
    def name(self) -> str:
        """Its name."""
    @property
    def backend(self) -> str:
        """The API that drives it, such as "vulkan"."""
    @property
    def kind(self) -> str:
        """Its kind: "discrete", "integrated", "virtual", "software" or "other"."""
    @property
    def driver(self) -> str:
        """Its driver."""
    @property
    def memory_bytes(self) -> int | None:
        """Its memory in bytes, if it is known."""

def devices() -> list[DeviceInfo]:
    """Return the devices of this machine; the first is the default."""

@final
class Reply:
    """A reply in progress: an iterator of pieces of text, also an asynchronous one.

    Deleting it cancels it.
    """

    def __iter__(self) -> Self: ...
    def __next__(self) -> str: ...
    def __aiter__(self) -> AsyncIterator[str]: ...
    def text(self) -> str:
        """Wait for the end of the reply and return its whole text."""
    def cancel(self) -> None:
        """Cancel the reply if it is in progress. Its text so far stays in the conversation."""
    @property
    def text_so_far(self) -> str:
        """The text so far."""
    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """Why the reply ended: "stop" (the model's stop token, or a stop string) or "length" (max_tokens, or a full
        context). None while it is in progress, and if it was cancelled or failed."""
    @property
    def prompt_tokens(self) -> int:
        """The number of tokens of the prompt."""
    @property
    def cached_tokens(self) -> int:
        """The number of tokens of the prompt that were in the KV cache; known from the first token on."""
    @property
    def completion_tokens(self) -> int:
        """The number of tokens generated so far."""

@final
class CompletionStream:
    """A streamed response: an iterator of chunks in OpenAI's form, also an asynchronous one.

    Deleting it cancels the request.
    """

    def __iter__(self) -> Self: ...
    def __next__(self) -> dict[str, Any]: ...
    def __aiter__(self) -> AsyncIterator[dict[str, Any]]: ...
    def cancel(self) -> None:
        """Cancel the request if it is in progress."""

@final
class Chat:
    """A conversation with a model, made by Engine.chat. It keeps the KV cache of its messages."""

    def say(self, text: str) -> Reply:
        """Add a user's message and start the reply to it.

        The reply is added to the conversation when it ends. Errors are raised when it is read, among them BusyError
        while another reply is in progress.
        """
    def clear(self) -> None:
        """Remove all messages but the system's."""
    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages so far, in OpenAI's form. They can be set, for example to those of a saved conversation."""
    @messages.setter
    def messages(self, value: Sequence[Mapping[str, Any]]) -> None: ...

@final
class Engine:
    """A model on a device, which computes any number of conversations and texts at once, in common batches.

    Args:
        path: A GGUF file; of a split model, the first part.
        device: The index or a part of the name of a device, as devices() lists them; "cpu" for reference kernels on the
            CPU. Default: the first.
        context: The most tokens of a sequence. Default: the model's, 4,096 at most.
        sequences: How many sequences are computed at once; more wait.
        kv_tokens: The most tokens of all sequences together. Default: context.
        kv_type: "f16" or "f32". Default: f16 where the device supports it.
        precision: "exact" or "fast".
        memory_budget: The device memory to use in bytes. Experts that do not fit are loaded from the file on demand.
            Default: what the device has free.
    """

    def __new__(
        cls,
        path: str | PathLike[str],
        *,
        device: int | str | None = None,
        context: int | None = None,
        sequences: int = 1,
        kv_tokens: int | None = None,
        kv_type: Literal["f16", "f32"] | None = None,
        precision: Literal["exact", "fast"] | None = None,
        memory_budget: int | None = None,
    ) -> Self: ...
    def chat(
        self,
        *,
        system: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[ChatOptions],
    ) -> Chat:
        """Start a conversation. Options are those of ReplyOptions and, for the chat template, of TemplateOptions."""
    def generate(self, prompt: str, **options: Unpack[ReplyOptions]) -> Reply:
        """Continue a text. No chat template is applied; names of control tokens are parsed. Options are those of
        ReplyOptions."""
    @overload
    def chat_completion(self, *, stream: Literal[True], **request: Any) -> CompletionStream: ...
    @overload
    def chat_completion(self, *, stream: Literal[False] | None = None, **request: Any) -> dict[str, Any]: ...
    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **options: Unpack[TemplateOptions],
    ) -> str:
        """Render messages with the model's chat template."""
    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of a text.

        Args:
            add_special: Prepend the beginning-of-text token if the model requires it.
            parse_special: Parse the names of control tokens.
        """
    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without control tokens."""
    def logits(self, tokens: Sequence[int]) -> list[float]:
        """Compute the logits of the token that follows."""
    def warm_up(self) -> None:
        """Compile all kernels, so that the first reply does not wait for them."""
    def recover(self) -> None:
        """Open the device again and load the model to it, after DeviceLostError. Requests in progress fail."""
    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
    @property
    def vocab_size(self) -> int:
        """The number of tokens of the vocabulary."""
    @property
    def architecture(self) -> str:
        """The model's architecture, such as "qwen3moe"."""
    @property
    def device(self) -> str:
        """The device's name."""
    @property
    def kv_blocks(self) -> tuple[int, int]:
        """The blocks of the KV cache: all, and those that no sequence holds."""
    @property
    def chat_template(self) -> str:
        """The source of the model's chat template."""
