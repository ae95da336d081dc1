"""What tests of killed commands begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_testing import prepared
from store_testing import quick_folder


@pytest.fixture(scope="module")
def ready_to_fork() -> Iterator[None]:
    """See `kill_testing.prepared`."""
    with prepared():
        yield


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder in memory."""
    with quick_folder() as folder:
        (folder / "at").mkdir()
        yield folder / "at"
