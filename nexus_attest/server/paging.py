"""Pages of a list behind opaque cursors."""

import base64
import json
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from mcp import MCPError
from mcp.types import INVALID_PARAMS

__all__ = ["PAGE_SIZE", "cursor_at", "offset_of", "page_of"]

PAGE_SIZE = 100

T = TypeVar("T")


def page_of(items: Sequence[T], kind: str, cursor: str | None) -> tuple[list[T], str | None]:
    """One page of a list, and the cursor of the next; None at the end. Raises MCPError for a cursor that this list never gave."""
    start = offset_of(kind, cursor)
    end = start + PAGE_SIZE
    return list(items[start:end]), cursor_at(kind, end) if end < len(items) else None


def cursor_at(kind: str, offset: int) -> str:
    """The cursor of the page that begins at `offset`."""
    return base64.urlsafe_b64encode(json.dumps([kind, offset], separators=(",", ":")).encode()).decode()


def offset_of(kind: str, cursor: str | None) -> int:
    """Where a page begins. Raises MCPError for a cursor that this list never gave."""
    if cursor is None:
        return 0
    try:
        found: object = json.loads(base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):  # not base64, not UTF-8, not JSON
        found = None
    match cast("Any", found):
        case [str() as of, int() as offset] if of == kind and 0 < offset < 2**53 and offset % PAGE_SIZE == 0:
            return offset
        case _:
            raise MCPError(INVALID_PARAMS, "Invalid cursor")
