"""The command that checks a trust policy: trust check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session
    from nexus_attest.trust import TrustPolicy

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    trust = group("The trust policy: whose keys and names are believed.")
    command(trust, "check", db=False)(_check)
    app.add_typer(trust, name="trust")


def _check(
    session: "Session",
    file: Annotated[Path, typer.Argument(help="The trust policy, in TOML.", metavar="FILE", show_default=False)],
) -> None:
    """Check a trust policy and tell what it says; every mistake is told with its place."""
    from nexus_attest.key_errors import TrustInvalid  # the engine's errors
    from nexus_attest.trust_file import load_trust

    try:
        policy = load_trust(file)
    except TrustInvalid as problem:
        found = problem.problems
        text = f"{len(found)} {'mistake' if len(found) == 1 else 'mistakes'}"
        session.fail(problem.code, text, {"problems": list(found)}, lambda: session.say("\n".join(_printable(item) for item in found)))
    session.show({"digest": policy.digest, "policy": policy.to_dict()}, "\n".join(_lines(policy)))


def _lines(policy: "TrustPolicy") -> list[str]:
    said = policy.to_dict()
    lines = [f"Trust policy {_printable(policy.name or 'without a name')}", f"  digest {policy.digest}"]
    for actor in said["actors"]:
        keys = ", ".join(_key(key) for key in actor["keys"]) or "no key"
        lines.append(f"  actor {_printable(actor['type'])}:{_printable(actor['id'])}: {keys}")
    lines += [f"  rule {number}: {_rule(rule)}" for number, rule in enumerate(said["rules"], 1)]
    lines += [f"  log {_printable(key)}" for key in said["log_keys"]]
    lines += [f"  attestor {_printable(attestor['attestor'])}: {_key(attestor)}" for attestor in said["attestors"]]
    lines += [f"  ledger {_printable(ledger['network'])}: {_printable(', '.join(ledger['accounts']))}" for ledger in said["ledgers"]]
    for authority in said.get("authorities", ()):
        limits = f", policies {', '.join(authority['policies'])}" if authority["policies"] else ""
        lines.append(f"  authority {_printable(authority['name'])}: certificates {', '.join(authority['certificates'])}{limits}")
    return lines


def _key(key: dict[str, Any]) -> str:
    limits = [f"{name} {key[name]}" for name in ("not_before", "not_after", "retired_at") if name in key]
    return _printable(key["id"]) + (f" ({', '.join(limits)})" if limits else "")


def _rule(rule: dict[str, Any]) -> str:
    places = [f"label {label}" for label in rule["labels"]] + [f"template {template}" for template in rule["templates"]]
    who = "everybody" if rule["actors"] is None else ", ".join(rule["actors"]) or "nobody"
    own = "" if rule["self_approval"] else ", not their own requests"
    where = " or ".join(places) or "every decision"
    return _printable(f"to {', '.join(rule['actions'])} for {where}: {rule['assurance']}, by {who}{own}")


def _printable(text: str) -> str:
    from nexus_control.markdown import printable  # the engine

    return printable(text)
