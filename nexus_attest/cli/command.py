"""How a command is made: its own parameters, the ones that all commands have, and the boundary where errors end.

Imported for every `--help`, so nothing here, and nothing at the top of a module with commands, imports the engine or rich: that would
more than double the time until help appears.
"""

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException
from typer.main import get_command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = [
    "ActorOption",
    "EnvelopeOption",
    "ForceOption",
    "HelpOption",
    "KeysOption",
    "LazyCommand",
    "Limit",
    "Offset",
    "OutputOption",
    "RequestId",
    "RunsOption",
    "SignOption",
    "command",
    "group",
    "show_group_help",
]

P = ParamSpec("P")

RequestId = Annotated[
    str, typer.Argument(help="The id of the decision, as `request` and `list` print it.", metavar="ID", show_default=False)
]
ActorOption = Annotated[
    str | None,
    typer.Option("--actor", metavar="NAME", help="Who acts: a person, or system:NAME. [env: NEXUS_ATTEST_ACTOR]", show_default=False),
]
SignOption = Annotated[
    str | None,
    typer.Option("--sign", metavar="KEY", help="Sign it with this key: a name, a file, env:NAME or program:COMMAND.", show_default=False),
]
EnvelopeOption = Annotated[
    Path | None,
    typer.Option("--envelope", metavar="FILE", help="Signed elsewhere: the envelope; - is standard input.", show_default=False),
]
KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FOLDER", help="Where keys are. [env: NEXUS_ATTEST_KEYS; default: with the configuration]", show_default=False
    ),
]
RunsOption = Annotated[
    Path | None, typer.Option("--runs", metavar="FILE", help="The run records. [default: beside the store]", show_default=False)
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to write; - is standard output. [default: in this folder]", show_default=False
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
Limit = Annotated[int, typer.Option(min=1, help="How many to show at most.")]
Offset = Annotated[int, typer.Option(min=0, help="How many of the newest to leave out.")]

_DB = inspect.Parameter(
    "db",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option(
            "--db",
            metavar="FILE",
            help="The store: a file, or postgresql://... [env: NEXUS_ATTEST_DB; default: in your data folder]",
            show_default=False,
        ),
    ],
)
_TRUST = inspect.Parameter(
    "trust",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option("--trust", metavar="FILE", help="The trust policy: whom to believe. [env: NEXUS_ATTEST_TRUST]", show_default=False),
    ],
)
_COMMON = (
    inspect.Parameter(
        "as_json",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--json", help="For programs: exactly one JSON document on standard output.")],
    ),
    inspect.Parameter(
        "debug",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error. [env: NEXUS_ATTEST_DEBUG]")],
    ),
)

HelpOption = Annotated[bool, typer.Option("--help", "-h", help="Show this message and exit.")]
"""Of groups. Typer's own one makes it load pydantic when it is not given, which takes longer than all else until help is shown."""


def group(description: str) -> typer.Typer:
    """A group of commands; without a command it prints its help and fails."""
    app = typer.Typer(
        help=description,
        rich_markup_mode=None,  # rich costs more than everything else that help needs
        add_completion=False,
        pretty_exceptions_enable=False,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_group_help)
    return app


def show_group_help(context: typer.Context, asked: bool) -> None:
    """Print the help of a group and end, when it was asked for or no command follows."""
    if asked or context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=not asked)
        raise typer.Exit(0 if asked else 2)


def _group_help(context: typer.Context, asked: HelpOption = False) -> None:
    show_group_help(context, asked)


class LazyCommand(TyperCommand):
    """A command that is put together when it is called. Its callback does that, and gives the `whole` of it.

    There are some fifty, and to make the parameters of all of them took a fifth of the time until help appeared.
    """

    def whole(self) -> Any:
        """The command with its parameters."""
        return None if self.callback is None else self.callback()

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """A context of the whole command, which is then invoked."""
        return self.whole().make_context(info_name, args, parent, **extra)


def command(
    app: typer.Typer, name: str, *, db: bool = True, trust: bool | None = None
) -> Callable[[Callable[Concatenate["Session", P], None]], Callable[Concatenate["Session", P], None]]:
    """Register a function as a command. It gets a Session first; `--json`, `--debug` and (unless `db` is off) `--db` are added.

    `--trust` is added together with `--db`, unless `trust` says otherwise.

    Whatever it raises is printed as one error, and becomes the exit code of `nexus_attest.cli.errors`.
    """

    with_trust = trust

    def register(function: Callable[Concatenate["Session", P], None]) -> Callable[Concatenate["Session", P], None]:
        def run(*, db: str | None = None, trust: Path | None = None, as_json: bool, debug: bool, **given: Any) -> None:
            from nexus_attest.cli.report import report  # the engine's errors
            from nexus_attest.cli.session import Session  # the engine

            try:
                with Session(db=db, trust=trust, as_json=as_json) as session:
                    function(session, **given)  # pyright: ignore[reportCallIssue] - typer calls by name
            except (typer.Exit, TyperException, BrokenPipeError):
                raise
            except Exception as error:  # the last place where an error of any kind can still become one line
                raise typer.Exit(report(error, as_json=as_json, debug=debug)) from None

        @cache
        def whole() -> Any:
            _, *own = inspect.signature(function).parameters.values()
            parameters = [
                *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
                *([_DB] if db else []),
                *([_TRUST] if (db if with_trust is None else with_trust) else []),
                *_COMMON,
            ]
            run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess] - what typer reads
            run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
            alone = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
            alone.command(name, help=inspect.getdoc(function))(run)
            return get_command(alone)

        app.command(name, help=inspect.getdoc(function), cls=LazyCommand)(whole)
        return function

    return register
