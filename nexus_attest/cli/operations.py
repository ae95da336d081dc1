"""Commands that keep a store alive: doctor, backup, restore."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import RunsOption, command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session
    from nexus_attest.operations import Finding

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "doctor", trust=False)(_doctor)
    command(app, "backup", trust=False)(_backup)
    command(app, "restore", trust=False)(_restore)


def _doctor(
    session: "Session",
    quick: Annotated[bool, typer.Option("--quick", help="Do not recompute the log, which takes as long as it is.")] = False,
    runs: RunsOption = None,
) -> None:
    """Look for everything that is wrong with the store, its runs and its queue, and say what to type next.

    Nothing is repaired. Exit code 1 when there is an error or a warning; notes alone are 0.
    """
    from nexus_attest.operations import Paths, diagnose  # the engine
    from nexus_attest.postgres.address import shown

    if session.store_address is None:
        name, store = str(session.store_path), None
    else:
        name, store = shown(session.store_address), session.store
    findings = diagnose(Paths(store=session.store_path, runs=runs, options=session.same_store, name=name), store=store, quick=quick)
    bad = [finding for finding in findings if finding.severity != "note"]
    data: dict[str, Any] = {"ok": not bad, "store": name, "findings": [finding.to_dict() for finding in findings]}
    if not bad:
        session.show(data, lambda: _say_findings(session, findings, f"Nothing is wrong with {name}"))
        return
    text = f"{len(bad)} {'thing needs' if len(bad) == 1 else 'things need'} attention"
    session.fail("ATTENTION_NEEDED", text, data, lambda: _say_findings(session, findings, text), exit_code=1)


def _say_findings(session: "Session", findings: "list[Finding]", conclusion: str) -> None:
    from nexus_control.markdown import printable

    for finding in findings:
        session.say(
            f"{finding.severity}  {finding.code}  {printable(finding.subject)}\n  {printable(finding.text)}\n  $ {printable(finding.next)}"
        )
    session.say(printable(conclusion))


def _backup(
    session: "Session",
    file: Annotated[Path, typer.Argument(help="Where the copy goes; it must not exist.", metavar="FILE", show_default=False)],
    runs: RunsOption = None,
    keep_unsound: Annotated[
        bool, typer.Option("--keep-unsound", help="Keep the copy also when the store does not verify, as evidence.")
    ] = False,
) -> None:
    """Copy the store to a file while others work with it, and verify the copy. Run records go beside it, to FILE.runs.

    The file has its name only when it is whole, checked and on the disk. It is readable by you alone. A store on a server becomes a file
    like any other, which needs no server to be verified; every row of it is compared.
    """
    from nexus_attest.operations import back_up, back_up_store  # the engine
    from nexus_attest.operations.backup import runs_beside
    from nexus_control.errors import FileRefused
    from nexus_control.markdown import escape

    if session.store_address is None:
        made = back_up(session.existing_store_path, file, runs=runs, keep_unsound=keep_unsound)
    else:
        if runs is not None and not runs.is_file():
            raise FileRefused(f"there is no file {runs}")
        made = back_up_store(session.store, file, runs=runs or runs_beside(session.store_path), keep_unsound=keep_unsound)
    data: dict[str, Any] = {
        "file": str(made.file),
        "bytes": made.bytes,
        "size": made.head.size,
        "root": made.head.root,
        "runs": None if made.runs is None else str(made.runs),
        "findings": list(made.findings),
    }
    verdict = "does NOT verify" if made.findings else "verified"
    lines = [f"Wrote {escape(file)} ({made.bytes} bytes, {made.head.size} entries, {verdict})", f"  root  {made.head.root}"]
    if made.runs is not None:
        lines.append(f"  runs  {escape(made.runs)}")
    session.show(data, "\n".join(lines))


def _restore(
    session: "Session",
    file: Annotated[Path, typer.Argument(help="The backup.", metavar="FILE", show_default=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Move a store that is there aside; it is kept.")] = False,
) -> None:
    """Verify a backup and bring it back as the store: a file, or an empty database on a server, where nothing is ever replaced.

    An older state is a rollback: what came after it is undone for this store, and shows against any checkpoint that was kept. What was
    executed since can be executed again: `doctor` compares with the run records, which are never replaced.
    """
    from nexus_attest.cli.errors import StoreNotAFile
    from nexus_attest.cli.moving import roles_of
    from nexus_attest.operations import restore, restore_store  # the engine
    from nexus_attest.operations.backup import runs_beside
    from nexus_attest.postgres.address import shown
    from nexus_control.markdown import escape, printable

    session.allow_new_store()
    roles, about_roles = list[str](), list[str]()
    if session.store_address is None:
        done = restore(file, session.store_file, replace=replace)
    else:
        if replace:
            raise StoreNotAFile(f"{shown(session.store_address)}: nothing on a server is ever replaced; name an empty database")
        if runs_beside(file).exists():
            session.make_local_folder()
        done = restore_store(file, session.store, runs=runs_beside(session.store_path))
        roles, about_roles = roles_of(session.store, session.same_store)
    data: dict[str, Any] = {
        "store": str(done.store),
        "size": done.head.size,
        "root": done.head.root,
        "runs": None if done.runs is None else str(done.runs),
        "kept": None if done.kept is None else str(done.kept),
        "undone": done.undone,
        "roles": roles,
    }
    lines = [f"Restored {escape(done.store)} ({done.head.size} entries, verified)", f"  root  {done.head.root}"]
    if done.runs is not None:
        lines.append(f"  runs  {escape(done.runs)}")
    if done.kept is not None:
        lines.append(f"  kept  {escape(done.kept)}, the store that was there")
    if done.undone:
        lines.append(f"  {done.undone} entries that the store had are not in this one")
    lines += [
        "Whatever came after this backup is undone. Checkpoints that were kept elsewhere reveal that:",
        f"  $ nexus-attest log verify --checkpoint FILE{printable(session.same_store)}",
        "What was executed since could be executed again; compare with the run records:",
        f"  $ nexus-attest doctor{printable(session.same_store)}",
        *about_roles,
    ]
    session.show(data, "\n".join(lines))
