"""Timings by turns, growth exponents, and results that are compared with their goals.

Times are processor time of this process, which other programs on the machine hardly disturb; what waits for a disk or for another
process is measured with `perf_counter`.
"""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from time import perf_counter, process_time
from typing import Any, Literal, TypeAlias, TypeVar

Operation = Callable[[], object]
Clock = Callable[[], float]
"""Gives seconds; only differences mean something."""
Outcome = Literal["met", "MISSED", "skipped", "-"]

T = TypeVar("T")

_MOST_ROUNDS = 1000
_FEWEST_ROUNDS = 15
_SECONDS = 4.0
"""Rounds end after this time, but not before the fewest were made."""

_QUICK_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much to measure, and the directory, on the disk to be measured, that files go to."""

    directory: Path
    quick: bool = False

    def size(self, full: T, quick: T) -> T:
        """The size of something, which a smoke run has smaller."""
        return quick if self.quick else full

    @property
    def most_rounds(self) -> int:
        """Upper bound of the rounds of one measurement, for what must be prepared once per round."""
        return self.size(_MOST_ROUNDS, _QUICK_ROUNDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the report. Without a value the measurement was skipped and `detail` says why; without a goal it is information."""

    name: str
    unit: str
    value: float | None = None
    goal: float | None = None
    detail: str = ""

    @property
    def outcome(self) -> Outcome:
        """Whether the value is at most the goal."""
        if self.value is None:
            return "skipped"
        if self.goal is None:
            return "-"
        return "met" if self.value <= self.goal else "MISSED"

    def to_dict(self) -> dict[str, Any]:
        """All fields and the outcome."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            "goal": self.goal,
            "outcome": self.outcome,
            "detail": self.detail,
        }


Benchmark: TypeAlias = Callable[[Settings], Iterator[Result]]


def by_turns(settings: Settings, *operations: Operation, clock: Clock = process_time, rounds: int | None = None) -> list[list[float]]:
    """Seconds that each operation took in each round; in a round every operation runs once. The first round is not counted.

    Without `rounds`: as many as fit into some seconds, between 15 and 1000.
    """
    for operation in operations:
        operation()
    gc.collect()
    samples: list[list[float]] = [[] for _ in operations]
    fewest = settings.size(_FEWEST_ROUNDS, _QUICK_ROUNDS) if rounds is None else rounds
    most = settings.most_rounds if rounds is None else rounds
    end = perf_counter() + _SECONDS
    for number in range(most):
        if number >= fewest and perf_counter() > end:
            break
        for sample, operation in zip(samples, operations, strict=True):
            start = clock()
            operation()
            sample.append(clock() - start)
    return samples


def ratio(
    name: str, settings: Settings, operation: Operation, floor: Operation, goal: float | None, *, clock: Clock = process_time
) -> Result:
    """The median time of the operation in units of the median time of its floor."""
    ours, least = by_turns(settings, operation, floor, clock=clock)
    return ratio_of(name, ours, least, goal)


def ratio_of(name: str, ours: Sequence[float], least: Sequence[float], goal: float | None) -> Result:
    """The same of times that were measured by turns."""
    detail = f"{milliseconds(ours)}, floor {milliseconds(least)}, {len(ours)} rounds"
    return Result(name=name, unit="x floor", value=median(ours) / median(least), goal=goal, detail=detail)


def growth(
    name: str, settings: Settings, sizes: Sequence[int], operations: Sequence[Operation], goal: float | None, *, rounds: int | None = None
) -> Result:
    """The exponent k of time = c * size ** k: the slope of the line through the medians, both axes logarithmic.

    Python's cyclic garbage collector pauses meanwhile. Its rare passes over all objects of the process hit the long operations more
    often than the short ones, and add up to 0.07 to the exponent of an operation whose own work is linear.
    """
    gc.disable()
    try:
        samples = by_turns(settings, *operations, rounds=rounds)
    finally:
        gc.enable()
    medians = [median(sample) for sample in samples]
    slope = linear_regression([math.log(size) for size in sizes], [math.log(value) for value in medians]).slope
    steps = ", ".join(f"{size:,}: {value * 1000:.3g} ms" for size, value in zip(sizes, medians, strict=True))
    return Result(name=name, unit="exponent", value=slope, goal=goal, detail=f"{steps}, {len(samples[0])} rounds")


def milliseconds(sample: Sequence[float]) -> str:
    """The median of a sample in seconds, as text."""
    return f"{median(sample) * 1000:.3g} ms"
