"""Bytes between jax's client and its service, through connections of ours: see peers.py for why."""

from __future__ import annotations

import asyncio
import contextlib


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    """Connects a client to jax's service at `host`; the service comes up a little after the port."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            upstream = await asyncio.open_connection(host, port)
            await pump(reader, writer, *upstream)
            return
        await asyncio.sleep(0.1)
    writer.close()


async def pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    """Carries bytes both ways. The near end stays open when the far end closes, and says nothing more."""

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()

    back = asyncio.create_task(carry(far_reader, writer))
    await carry(reader, far_writer)
    far_writer.close()
    back.cancel()
