"""The command line as a whole: its commands, and everything that can go wrong outside of one."""

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from nexus_attest.cli import (
    adapters,
    attestations,
    audit,
    bundles,
    cases,
    database,
    decisions,
    demo,
    executions,
    keys,
    log,
    mcp,
    narratives,
    operations,
    proofs,
    runs,
    serve,
    sign,
    templates,
    trust,
    verify,
    views,
    witness,
)
from nexus_attest.cli.command import HelpOption, group, show_group_help
from nexus_control.streams import forget_output

__all__ = ["app", "run"]

_PROGRAM = "nexus-attest"

_INTERRUPTED = 130
"""128 and the number of SIGINT, as shells report it."""

app = group(
    """Provable governance for AI agents' tool calls: request, policy, approvals, one execution, and evidence that a stranger can check.

    New here? `nexus-attest demo` shows all of it in a few seconds.

    Exit codes: 0 done, and every check passed; 1 unexpected error; 2 invalid input, refused command or failed verification.
    """
)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    asked: HelpOption = False,
) -> None:
    if version:
        from nexus_attest import __version__  # not needed otherwise

        typer.echo(f"nexus-attest {__version__}")
        raise typer.Exit
    show_group_help(context, asked)


for module in (
    *(demo, decisions, executions, runs, adapters, views, templates, bundles),
    *(audit, cases, verify, log, keys, sign, attestations, witness, narratives, proofs, trust, mcp, serve, operations),
    database,
):
    module.register(app)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code. Prints errors; raises only SystemExit."""
    as_json, debug = "--json" in arguments, "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets it spelled out instead of an error.
            stream.reconfigure(errors="backslashreplace")
    code = 0
    try:
        code = _logged(arguments, as_json=as_json, debug=debug)
        sys.stdout.flush()
    except BrokenPipeError:
        forget_output()
        return 1
    except OSError as error:  # the disk behind standard output is full, for example
        forget_output()
        return code or _report(error, as_json=False, debug=debug)
    return code


def _logged(arguments: Sequence[str], *, as_json: bool, debug: bool) -> int:
    """`_run`, with a log where one is wanted."""
    if not os.environ.get("NEXUS_ATTEST_LOG"):
        return _run(arguments, as_json=as_json, debug=debug)
    from nexus_attest.cli.observing import log_command, log_level  # the engine
    from nexus_control.errors import NexusError

    try:
        level = log_level()
    except NexusError as error:
        return _report(error, as_json=as_json, debug=debug)
    return log_command(str(level), _words(arguments), lambda: _run(arguments, as_json=as_json, debug=debug))


def _words(arguments: Sequence[str]) -> list[str]:
    """The command without what users wrote: the names of groups and command."""
    words: list[str] = []
    at = app
    for word in arguments:
        inside = next((found.typer_instance for found in at.registered_groups if found.name == word), None)
        if inside is None:
            return words + [word] * any(found.name == word for found in at.registered_commands)
        words.append(word)
        at = inside
    return words


def _run(arguments: Sequence[str], *, as_json: bool, debug: bool) -> int:
    try:
        result: object = app(args=list(arguments), prog_name=_PROGRAM, standalone_mode=False)
    except TyperException as error:
        return _usage(error, as_json=as_json)
    except OSError:
        raise
    except Exception as error:  # a bug outside of every command
        return _report(error, as_json=as_json, debug=debug)
    if result == _INTERRUPTED:  # so typer tells of Ctrl-C
        return _refuse("INTERRUPTED", "INTERRUPTED: stopped from the keyboard", as_json=as_json, exit_code=_INTERRUPTED)
    return result if isinstance(result, int) else 0


def _usage(error: TyperException, *, as_json: bool) -> int:
    """A command line that could not be understood."""
    where: str = getattr(getattr(error, "ctx", None), "command_path", _PROGRAM)
    code = _refuse("USAGE", f"USAGE: {error.format_message()}", as_json=as_json, exit_code=2)
    if not as_json:
        sys.stderr.write(f"Try: {where} --help\n")
    return code


def _refuse(code: str, text: str, *, as_json: bool, exit_code: int) -> int:
    from nexus_attest.cli.report import refuse  # the engine's errors

    refuse(code, text, as_json=as_json)
    return exit_code


def _report(error: Exception, *, as_json: bool, debug: bool) -> int:
    from nexus_attest.cli.report import report  # the engine's errors

    return report(error, as_json=as_json, debug=debug)
