"""A pytest plugin for runs of mutants: the same inputs every time, fewer of them, and no search for the smallest one that fails."""

from hypothesis import Phase, settings

__all__ = ["pytest_sessionstart"]


def pytest_sessionstart() -> None:
    """After the conftest has chosen its profile."""
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", settings.default, max_examples=40, phases=phases, derandomize=True, database=None, deadline=None)
    settings.load_profile("mutants")
