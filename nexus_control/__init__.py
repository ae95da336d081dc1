"""The governance engine: decides, records, packages and verifies, with the Python standard library only."""

__version__ = "1.0.0"
