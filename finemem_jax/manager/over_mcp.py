"""`finemem mcp`: the verbs of `Manager` as tools over the Model Context Protocol, on standard input and output.

The user is chosen when the server is started: no tool can name another one.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from finemem_jax.config import UserError
from finemem_jax.manager.tools import TOOLS
from finemem_jax.manager.verbs import Manager


def serve(manager: Manager, user: str) -> None:
    """Serves until standard input ends. Raises UserError where the package `mcp` is missing."""
    try:
        import mcp_types as types
        from mcp.server import Server
        from mcp.server.stdio import stdio_server
    except ImportError as error:
        raise UserError(
            f"finemem mcp needs the package mcp, version 2: pip install 'finemem_jax[mcp]' ({error})"
        ) from error
    threading.Thread(target=_warm_up, args=(manager,), daemon=True).start()  # the first call comes later

    async def list_tools(context: Any, params: Any) -> Any:
        listed = [types.Tool(name=t.name, description=t.description, input_schema=t.schema()) for t in TOOLS]
        return types.ListToolsResult(tools=listed)

    async def call_tool(context: Any, params: Any) -> Any:
        text = await asyncio.to_thread(manager.call, params.name, params.arguments or {}, user=user)
        found = json.loads(text)
        is_error = isinstance(found, dict) and set(found) == {"error"}
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=is_error)

    server = Server("finemem", on_list_tools=list_tools, on_call_tool=call_tool)

    async def run() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    asyncio.run(run())


def _warm_up(manager: Manager) -> None:
    try:
        manager.warm_up()
    except Exception:  # whatever it is, the first call says it
        return
