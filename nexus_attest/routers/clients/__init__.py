"""The modules of the routers that import `httpx` or `mcp`. An adapter imports one of them when it opens a session, nobody else does."""
