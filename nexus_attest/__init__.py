"""Provable governance for AI agents' tool calls."""

from nexus_control import __version__

__all__ = ["__version__"]
