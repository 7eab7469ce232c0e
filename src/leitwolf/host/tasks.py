"""The one place of the host where tasks begin."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["TaskTree"]

T = TypeVar("T")


class TaskTree:
    """All tasks of the host. One that fails unexpectedly ends the host: the keeper starts another.

    A task that died unnoticed would leave a resource unwatched, which looks like health.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(
        self, work: Coroutine[Any, Any, T], name: str, *, handled: bool = False
    ) -> asyncio.Task[T]:
        """Run ``work``; see :class:`leitwolf.resources.Tasks`."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not handled:
            task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not self._failure.done():
            self._failure.set_exception(error)

    async def failed(self) -> None:
        """Wait for ever; raise what an unhandled task raised."""
        await self._failure

    async def cancel(self) -> None:
        """Cancel all tasks and wait until they are done. Resources are not touched by that."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
