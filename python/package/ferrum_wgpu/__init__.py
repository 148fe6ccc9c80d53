"""Language models from GGUF files on any GPU, through wgpu.

>>> import ferrum_wgpu
>>> engine = ferrum_wgpu.Engine("model.gguf")
>>> for piece in engine.chat().say("What is the capital of France?"):
...     print(piece, end="", flush=True)
"""

from ._native import (
    BusyError,
    Chat,
    CompletionStream,
    ContextFullError,
    DeviceError,
    DeviceInfo,
    DeviceLostError,
    Engine,
    EngineError,
    Error,
    FileFormatError,
    GrammarError,
    ModelError,
    OutOfMemoryError,
    Reply,
    RequestError,
    TextError,
    __version__,
    devices,
)
from ._options import ChatOptions, ReplyOptions, TemplateOptions

__all__ = [
    "BusyError",
    "Chat",
    "ChatOptions",
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
    "ReplyOptions",
    "RequestError",
    "TemplateOptions",
    "TextError",
    "__version__",
    "devices",
]
