"""TCP connections that can be silent for a while, or for ever: no reset, no end, no answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Proxy:
    """A port of 127.0.0.1 that leads to another one."""

    def __init__(self, network: Network, target: int) -> None:
        self._network, self._target = network, target
        self._flows = asyncio.Event()
        self._flows.set()
        self._lost = False
        self.port = 0

    async def listen(self) -> asyncio.Server:
        """Take connections."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Hold what is sent, as a network that loses packets; in the end it arrives."""
        self._network.call(self._flows.clear)
        try:
            yield
        finally:
            self._network.call(self._flows.set)

    def cut(self) -> None:
        """Lose what is sent from now on, also by who is gone: nobody is told."""
        self._network.call(self._cut)

    def _cut(self) -> None:
        self._flows = asyncio.Event()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):
            await self._flows.wait()
            try:
                beyond = await asyncio.open_connection("127.0.0.1", self._target)
            except OSError:
                writer.close()
                return
            await asyncio.gather(self._pump(reader, beyond[1]), self._pump(beyond[0], writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        await self._flows.wait()
        with suppress(OSError, RuntimeError):
            writer.close()


class Network:
    """All proxies, in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []

    def proxy(self, target: int) -> Proxy:
        """Return a way to a port."""
        made = Proxy(self, target)
        self._servers.append(self._wait(made.listen()))
        return made

    def call(self, function: Any) -> None:
        """Call something in the thread, and wait until that is done."""

        async def called() -> None:
            function()

        self._wait(called())

    def forget(self) -> None:
        """Close all connections and ports."""

        async def cancelled() -> None:
            for server in self._servers:
                server.close()
            self._servers.clear()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()

        self._wait(cancelled())

    def close(self) -> None:
        """Stop."""
        self.forget()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
