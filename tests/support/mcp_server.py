"""A real MCP server, by the official SDK: ``python -m tests.support.mcp_server`` (stdio) or ``… http PORT``."""

from __future__ import annotations

import os
import sys
import time

from mcp.server import MCPServer
from mcp.server.mcpserver import Image

from host_api.app.models.probes import square_png

server = MCPServer("workshop")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def picture() -> Image:
    """Show a red square."""
    return Image(data=square_png(), format="png")


@server.tool()
def end() -> str:
    """End the process."""
    os._exit(3)


@server.tool()
def wait(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "waited"


@server.tool()
def secret() -> str:
    """Tell what the environment has."""
    return f"{os.environ.get('GIVEN')} {os.environ.get('OPENAI_API_KEY')}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["http"]:
        server.run("streamable-http", port=int(sys.argv[2]))
    else:
        server.run("stdio")
