"""Asynchronous iteration: each step waits in a thread of the event loop's pool."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T", covariant=True)


class Cancellable(Iterator[T], Protocol[T]):
    """An iterator that can be cancelled from another thread."""

    def cancel(self) -> None: ...


async def pieces(stream: Cancellable[T]) -> AsyncIterator[T]:
    """Yields what a stream yields. Cancels it when the consumer leaves."""
    try:
        while (piece := await asyncio.to_thread(next, stream, None)) is not None:
            yield piece
    finally:
        stream.cancel()
