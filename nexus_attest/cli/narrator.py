"""How the demonstration is told: acts of numbered scenes, in each what happens, what came out, and why it matters."""

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from nexus_attest.cli.screen import Screen
from nexus_control.markdown import escape

__all__ = ["Narrator"]

_WIDEST = 100
_TEXT_INDENT = 3
_FACT_INDENT = 5
_NAME_WIDTH = 10


class Narrator:
    """Tells on a screen, at most 100 columns wide. Text of users must be escaped."""

    def __init__(self, screen: Screen) -> None:
        self._console = screen.console
        self._width = min(self._console.width, _WIDEST)
        self._acts = self._scenes = 0

    def act(self, title: str) -> None:
        """The next act; its scenes follow."""
        self._acts += 1
        self._console.print()
        self._console.print(Rule(Text(f"ACT {self._acts}  {title}", "bold"), characters="\u2550", align="left"), width=self._width)

    def scene(self, title: str, text: str) -> None:
        """The next scene, and what happens in it; they are counted through all acts."""
        self._scenes += 1
        self.heading(f"{self._scenes}  {title}")
        self.text(text)

    def heading(self, title: str) -> None:
        """A line across with a title."""
        self._console.print()
        self._console.print(Rule(Text(title, "bold"), align="left", style="dim"), width=self._width)

    def text(self, text: str) -> None:
        """A paragraph."""
        self._print(Text(text), _TEXT_INDENT)

    def why(self, text: str) -> None:
        """Why it matters."""
        self._print(Text(text, "dim"), _TEXT_INDENT)

    def facts(self, *facts: tuple[str, str]) -> None:
        """Names and values."""
        table = _grid(_NAME_WIDTH)
        for name, value in facts:
            table.add_row(Text(name, "cyan"), value)
        self._print(table, _FACT_INDENT)

    def good(self, name: str, value: str) -> None:
        """Something that was done."""
        self._marked("\u2713", "green", name, value)

    def bad(self, name: str, value: str) -> None:
        """Something that was refused."""
        self._marked("\u2717", "red", name, value)

    def show(self, what: RenderableType) -> None:
        """Something ready, indented like facts."""
        self._print(what, _FACT_INDENT)

    def command(self, purpose: str, *lines: str) -> None:
        """A command to copy, whose lines are never broken, and what it is for."""
        self.why(purpose)
        for line in lines:
            self._console.print(Text(" " * _FACT_INDENT + escape(line)), soft_wrap=True)

    def _marked(self, mark: str, style: str, name: str, value: str) -> None:
        table = _grid(_NAME_WIDTH + _FACT_INDENT - _TEXT_INDENT)
        table.add_row(Text(f"{mark} {name}", f"bold {style}"), value)
        self._print(table, _TEXT_INDENT)

    def _print(self, what: RenderableType, indent: int) -> None:
        self._console.print(Padding(what, (0, 0, 0, indent), expand=False), width=self._width)


def _grid(name_width: int) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, min_width=name_width)
    table.add_column(overflow="fold")
    return table
