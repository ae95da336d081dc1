"""Commands around private keys: keys new, list, show, retire."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import KeysOption, command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session
    from nexus_attest.keys import StoredKey

__all__ = ["register"]

KeyName = Annotated[str, typer.Argument(help="The name of the key.", metavar="NAME", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    keys = group("Private keys: what only their holder can sign.")
    command(keys, "new", db=False)(_new)
    command(keys, "list", db=False)(_list)
    command(keys, "show", db=False)(_show)
    command(keys, "retire", db=False)(_retire)
    app.add_typer(keys, name="keys")


def _new(
    session: "Session",
    name: KeyName,
    protect: Annotated[bool, typer.Option("--protect", help="Encrypt it with a passphrase. [env: NEXUS_ATTEST_PASSPHRASE]")] = False,
    folder: KeysOption = None,
) -> None:
    """Make a key. Its private part is written to one file, mode 0600, and shown nowhere."""
    from nexus_attest.cli import settings  # the engine's errors
    from nexus_attest.cli.signing import passphrase
    from nexus_attest.key_errors import PassphraseMissing
    from nexus_attest.keys import new_key

    secret = passphrase() if protect else None
    if protect and not secret:
        raise PassphraseMissing("a key that is to be protected needs a passphrase")
    key = new_key(settings.keys_path(folder), name, secret)
    session.show(_described(key), f"Made key {key.name}\n{_lines(key)}\n  file        {_shown(key.path)}")


def _list(session: "Session", folder: KeysOption = None) -> None:
    """List the keys, and what is wrong with files that are none."""
    from nexus_attest.cli import settings  # the engine's errors
    from nexus_attest.keys import StoredKey, list_keys

    found = list_keys(settings.keys_path(folder))
    keys = [key for key in found if isinstance(key, StoredKey)]
    refused = [key for key in found if not isinstance(key, StoredKey)]
    data = {"keys": [_described(key) for key in keys], "refused": [{"code": problem.code, "error": str(problem)} for problem in refused]}
    lines = [f"{key.name}  {key.key_id}{_state(key)}" for key in keys] + [_shown(problem.describe()) for problem in refused]
    session.show(data, "\n".join(lines) or "No keys")


def _show(
    session: "Session",
    name: KeyName,
    actor: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print the entry of a trust policy for this actor.", show_default=False)
    ] = None,
    log: Annotated[
        str | None, typer.Option(metavar="ORIGIN", help="Print the verifier key of a log of this name.", show_default=False)
    ] = None,
    folder: KeysOption = None,
) -> None:
    """Show the public part of a key."""
    from nexus_control.checkpoint import NoteKey  # the engine

    key = _stored(name, folder)
    data, text = _described(key), f"Key {key.name}{_state(key)}\n{_lines(key)}"
    if actor is not None:
        text = data["trust"] = _trust_entry(key, actor)
    if log is not None:
        data["verifier_key"] = NoteKey(log, key.public_key).text()
        text = data["verifier_key"] if actor is None else f"{text}\n\n[[log_keys]]\nkey = {_toml(data['verifier_key'])}"
    session.show(data, text)


def _retire(
    session: "Session",
    name: KeyName,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, destroy the private part.")] = False,
    folder: KeysOption = None,
) -> None:
    """Retire a key: its private part is destroyed, so it never signs again.

    What it signed stays valid. Write the time into the trust policies that name the key, so that copies of it sign nothing either.
    """
    if not yes:
        raise typer.BadParameter("this destroys the private part for good; say so", param_hint="--yes")
    from nexus_attest.keys import retire_key  # the engine

    key = retire_key(_path(name, folder))
    session.show(
        _described(key), f"Retired key {key.name}\n{_lines(key)}\n  in trust policies: retired_at = {_described(key)['retired_at']}"
    )


def _path(name: str, folder: Path | None) -> Path:
    from nexus_attest.cli import settings  # the engine's errors
    from nexus_attest.keys import key_path

    return key_path(name, settings.keys_path(folder))


def _stored(name: str, folder: Path | None) -> "StoredKey":
    from nexus_attest.keys import read_key  # the engine

    return read_key(_path(name, folder))


def _described(key: "StoredKey") -> dict[str, Any]:
    from base64 import b64encode  # for commands about keys alone

    return {
        "name": key.name,
        "key_id": key.key_id,
        "public_key": b64encode(key.public_key).decode(),
        "created_at": key.created_at.isoformat(),
        "retired_at": None if key.retired_at is None else key.retired_at.isoformat(),
        "protected": key.is_protected,
        "file": str(key.path),
    }


def _state(key: "StoredKey") -> str:
    return f"  retired {key.retired_at.isoformat()}" if key.retired_at is not None else "  protected" if key.is_protected else ""


def _lines(key: "StoredKey") -> str:
    return f"  key id      {key.key_id}\n  public key  {_described(key)['public_key']}"


def _trust_entry(key: "StoredKey", actor: str) -> str:
    from nexus_attest.cli.settings import parse_actor_text  # the engine's errors

    who = parse_actor_text(actor)
    kind = "" if who.type == "human" else f"type = {_toml(who.type)}\n"
    retired = "" if key.retired_at is None else f"\nretired_at = {key.retired_at.isoformat()}"
    return f'[[actors]]\nid = {_toml(who.id)}\n{kind}[[actors.keys]]\npublic_key = "{_described(key)["public_key"]}"{retired}'


def _toml(text: str) -> str:
    """A basic string of TOML; a JSON string in ASCII is one, as long as it escapes no surrogates."""
    import json  # for commands about keys alone

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _shown(value: object) -> str:
    from nexus_control.markdown import printable  # the engine

    return printable(str(value))
