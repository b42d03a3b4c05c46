"""A proxy that breaks the first connection: while the client waits for the answer, or once the server has sent it. The
client sees no byte of that answer.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536


CUT_AFTER_S = 0.1
"""From the request on: the fastest run of the stand-in takes longer."""


@contextmanager
def breaking_once(port: int, *, waiting: bool) -> Iterator[str]:
    """The address before `port` that breaks the first connection: while the client waits, or after the answer."""
    ready: list[tuple[int, asyncio.Event]] = []
    started = threading.Event()

    async def serve() -> None:
        lost = asyncio.Event()
        stop = asyncio.Event()
        carrying: set[asyncio.Task[None]] = set()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(HOST, port)
            asked = asyncio.Event()
            up = asyncio.create_task(_pump(reader, back, asked))
            with suppress(ConnectionError, asyncio.CancelledError):
                if waiting and not lost.is_set():
                    await asked.wait()
                    lost.set()
                    await asyncio.sleep(CUT_AFTER_S)
                    writer.transport.abort()
                    back.transport.abort()
                while data := await there.read(CHUNK_BYTES):
                    if not lost.is_set():
                        lost.set()
                        writer.transport.abort()
                        break
                    writer.write(data)
                    await writer.drain()
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            writer.close()
            back.close()

        def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            carrying.add(asyncio.create_task(carry(reader, writer)))

        server = await asyncio.start_server(came, HOST, 0)
        ready.append((server.sockets[0].getsockname()[1], stop))
        started.set()
        await stop.wait()
        server.close()
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(serve(),))
        thread.start()
        started.wait(10)
        (bound, stop) = ready[0]
        try:
            yield f"http://{HOST}:{bound}"
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, began: asyncio.Event) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            began.set()
            writer.write(data)
            await writer.drain()
