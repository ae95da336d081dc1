"""Interruptions (Ctrl-C) at each place where CPython looks at signals, one after the other."""

import dis
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

_LOOKS = ("JUMP_BACKWARD", "CALL", "POP_JUMP_BACKWARD")
"""Instructions, by how they begin, after which an interruption may be raised, unless they raised something themselves. Before the first
step of a function it may be as well."""


def interrupting(number: int, *modules: ModuleType) -> tuple[Callable[[FrameType, str, Any], Any], Callable[[], bool]]:
    """A trace function that raises KeyboardInterrupt at the place of this number, from 1, in these modules; and whether it did."""
    seen = 0
    files = {module.__file__ for module in modules}
    before: dict[int, str] = {}  # by the id of a frame: what is left behind may be waiting for the frame to go

    def look() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            raise KeyboardInterrupt

    def inside(frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode":
            name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            previous, before[id(frame)] = before.get(id(frame), ""), name
            if previous.startswith(_LOOKS):
                look()
        elif event == "exception":
            before.pop(id(frame), None)
        return inside

    def outside(frame: FrameType, _event: str, _argument: object) -> Any:
        if frame.f_code.co_filename not in files or frame.f_code.co_name == "_locked":
            return None
        look()
        before.pop(id(frame), None)
        frame.f_trace_opcodes = True
        return inside

    return outside, lambda: seen >= number
