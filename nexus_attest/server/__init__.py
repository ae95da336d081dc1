"""The MCP server: the governance tools for models and their hosts, over stdio and streamable HTTP.

    python -m nexus_attest serve                          stdio, for a host that starts its servers itself
    python -m nexus_attest serve --http 127.0.0.1:8731    streamable HTTP at /mcp

One server object answers both protocol eras: 2026-07-28, which knows no session, and the handshake of 2025-11-25 and before. It decides
nothing by itself: every tool is one call of `nexus_control.tool`. Modules of this package import the `mcp` SDK and are loaded only by
the commands that serve; `nexus_attest.server.errors` alone stays light.
"""
