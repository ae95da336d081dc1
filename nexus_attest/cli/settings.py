"""Where the command line finds what was not said on it: the actor, the store, the adapter file, the trust policy, the keys.

An option wins over an environment variable, that over the configuration file, that over the built-in default.

    actor     --actor     NEXUS_ATTEST_ACTOR   actor = "alice"              no default: nobody acts by accident
    db        --db        NEXUS_ATTEST_DB      db = "~/team/decisions.db"   decisions.db in the user's data folder
              or, for any of these, "postgresql://USER@HOST/DATABASE"
    adapters  --adapters                       adapters = "adapters.toml"   no default
    trust     --trust     NEXUS_ATTEST_TRUST   trust = "trust.toml"         no default: names are believed, signatures refused
    keys      --keys      NEXUS_ATTEST_KEYS    keys = "keys"                keys in the user's configuration folder
    witness   --witness   NEXUS_ATTEST_WITNESS witness = "witness.toml"     no default: nothing is sent by accident

The configuration file is `config.toml` in the user's configuration folder, at most 1 MiB. Relative paths in it start from that folder,
and it is understood completely or refused.

    Linux and others    ~/.config/nexus-attest                            ~/.local/share/nexus-attest
    macOS               ~/Library/Application Support/nexus-attest        the same
    Windows             %APPDATA%\\nexus-attest                            %LOCALAPPDATA%\\nexus-attest

~ is the folder that HOME (on Windows USERPROFILE) names, in NEXUS_ATTEST_DB and the configuration too; --db is taken as it is. Where
that variable is empty, missing or relative there is no home folder, and what needs one is refused: evidence never lands anywhere else.

XDG_CONFIG_HOME and XDG_DATA_HOME are respected on all of them, as the XDG Base Directory Specification says: absolute paths only.
"""

import os
import sys
from pathlib import Path

from nexus_attest.cli.errors import ActorMissing, ConfigError, WitnessMissing
from nexus_attest.postgres.address import is_address
from nexus_attest.toml_data import parse_toml
from nexus_control.errors import FileRefused, InvalidActor
from nexus_control.events import Actor, parse_actor
from nexus_control.files import read_file

__all__ = [
    "ACTOR_VARIABLE",
    "DB_VARIABLE",
    "KEYS_VARIABLE",
    "PASSPHRASE_VARIABLE",
    "TRUST_VARIABLE",
    "WITNESS_VARIABLE",
    "actor",
    "adapters_path",
    "config_path",
    "data_folder",
    "keys_path",
    "parse_actor_text",
    "store_place",
    "trust_path",
    "witness_path",
]

ACTOR_VARIABLE = "NEXUS_ATTEST_ACTOR"
DB_VARIABLE = "NEXUS_ATTEST_DB"
TRUST_VARIABLE = "NEXUS_ATTEST_TRUST"
KEYS_VARIABLE = "NEXUS_ATTEST_KEYS"
WITNESS_VARIABLE = "NEXUS_ATTEST_WITNESS"
PASSPHRASE_VARIABLE = "NEXUS_ATTEST_PASSPHRASE"
"""Holds the passphrase of a protected key; asked for on a terminal when it is not set."""

_APPLICATION = "nexus-attest"
_MAX_CONFIG_BYTES = 1024 * 1024
_KEYS = ("actor", "db", "adapters", "trust", "keys", "witness")


class _HomeMissing(ConfigError):
    """There is no home folder, and something in it is needed."""


def actor(option: str | None) -> Actor:
    """Who acts. Raises ActorMissing, InvalidActor or ConfigError."""
    text = option if option is not None else os.environ.get(ACTOR_VARIABLE) or _config().get("actor")
    if text is None:
        raise ActorMissing(
            f'who is acting? Give --actor NAME, or set {ACTOR_VARIABLE}, or write actor = "NAME" into {config_path()}. '
            "NAME is a person; system:NAME is a system."
        )
    return parse_actor_text(text)


def parse_actor_text(text: str) -> Actor:
    """`alice` and `human:alice` are the same person, `system:ci` is a system. Raises InvalidActor for anything else before a colon."""
    kind, colon, name = text.partition(":")
    if not colon:
        kind, name = "human", text
    if kind not in ("human", "system"):
        raise InvalidActor(f"{text!r:.100} is neither a person nor a system; write human:{text:.80} if that is the name of a person")
    if not name or name != name.strip():  # "alice " would look like alice and count as somebody else
        raise InvalidActor(f"the actor {text!r:.100} has no name, or spaces around it")
    return parse_actor({"type": kind, "id": name})


def store_place(option: str | Path | None) -> tuple[Path | str, bool]:
    """The file of the store, or its address, which is a text; and whether it is the built-in default. Raises ConfigError."""
    if option is not None:
        return option if is_address(option) else Path(option), False
    if given := os.environ.get(DB_VARIABLE):
        return given if is_address(given) else _expanded(given), False
    if given := _config().get("db"):
        return given if is_address(given) else _from_config(given), False
    return data_folder() / "decisions.db", True


def data_folder() -> Path:
    """Where this user's stores are, unless somebody says otherwise. Raises ConfigError without a home folder."""
    return _folder("XDG_DATA_HOME", ".local/share", "LOCALAPPDATA")


def adapters_path(option: Path | None) -> Path | None:
    """The adapter file, None when nobody named one. Raises ConfigError."""
    if option is not None:
        return option
    given = _config().get("adapters")
    return None if given is None else _from_config(given)


def trust_path(option: Path | None) -> Path | None:
    """The trust policy, None when nobody named one. Raises ConfigError."""
    if option is not None:
        return option
    if given := os.environ.get(TRUST_VARIABLE):
        return _expanded(given)
    try:
        given = _config().get("trust")
    except _HomeMissing:  # no home, no configuration: whoever runs without one names everything
        return None
    return None if given is None else _from_config(given)


def keys_path(option: Path | None) -> Path:
    """The folder of private keys. Raises ConfigError."""
    if option is not None:
        return option
    if given := os.environ.get(KEYS_VARIABLE):
        return _expanded(given)
    return _from_config(_config().get("keys", "keys"))


def witness_path(option: Path | None) -> Path:
    """The witness file. Raises WitnessMissing when nobody named one, ConfigError."""
    if option is not None:
        return option
    if given := os.environ.get(WITNESS_VARIABLE):
        return _expanded(given)
    if given := _config().get("witness"):
        return _from_config(given)
    raise WitnessMissing(
        f'on which network? Give --witness FILE, or set {WITNESS_VARIABLE}, or write witness = "FILE" into {config_path()}'
    )


def config_path() -> Path:
    """Where the configuration file is, or would be. Raises ConfigError without a home folder."""
    return _folder("XDG_CONFIG_HOME", ".config", "APPDATA") / "config.toml"


def _config() -> dict[str, str]:
    path = config_path()
    try:
        path.stat()
        data: dict[str, object] = parse_toml(read_file(path, _MAX_CONFIG_BYTES))
    except FileNotFoundError:
        return {}
    except FileRefused as problem:
        raise ConfigError(str(problem)) from None
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"{path}: no TOML: {problem}") from None
    config: dict[str, str] = {}
    for key, value in data.items():
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}; known: {', '.join(_KEYS)}")
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{path}: {key} must be a non-empty string")
        config[key] = value
    return config


def _from_config(text: str) -> Path:
    return config_path().parent / _expanded(text)


def _expanded(text: str) -> Path:
    """A path that may start with ~ or ~user."""
    path = Path(text)
    if path.parts[:1] == ("~",):
        return _home().joinpath(*path.parts[1:])
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{text!r:.300}: {path.parts[0]} has no home folder here") from None


def _folder(variable: str, unix: str, windows: str) -> Path:
    given = Path(os.environ.get(variable, ""))
    if given.is_absolute():
        return given / _APPLICATION
    if sys.platform == "darwin":
        return _home() / "Library" / "Application Support" / _APPLICATION
    if sys.platform == "win32":
        return Path(os.environ.get(windows) or _home() / "AppData") / _APPLICATION
    return _home() / unix / _APPLICATION


def _home() -> Path:
    variable = "USERPROFILE" if sys.platform == "win32" else "HOME"
    home = Path(os.environ.get(variable, ""))
    if not home.is_absolute():
        raise _HomeMissing(
            f"{variable} is not set to an absolute path, so there is no home folder: set it, or XDG_CONFIG_HOME and XDG_DATA_HOME, "
            f"or give --db and --actor, or set {DB_VARIABLE} and {ACTOR_VARIABLE}"
        )
    return home
