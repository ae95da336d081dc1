"""Secret references: where a secret comes from, read when a call is made, and known to the redactor from then on.

An adapter file declares the secrets that its calls may use, by name: `secrets = { token = "env:API_TOKEN" }`. A plan refers to one as
`{"$secret": "token"}`, in place of any value of its arguments. Plans, records and digests hold the reference, the tool gets the value.
Names that the file does not declare are refused: a plan must not be able to ask for just any variable or file of the host.

The same values, and those of variables and headers that the file names, are what `Credentials.redactor` takes out of answers.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from nexus_attest.redaction import Redactor, parse_pointer, passwords_of, variable_names_a_secret
from nexus_attest.routers.errors import CallFailed, CallOutcome, CallRefused
from nexus_attest.routers.settings import AdapterSettings
from nexus_control.errors import FileRefused
from nexus_control.files import read_file

__all__ = ["Credentials", "require_declared", "secret_names"]

_KEY = "$secret"
_MOST_BYTES = 65_536
"""Largest file that is read as a secret."""


def secret_names(value: object) -> Iterator[str]:
    """The names that a value refers to. Raises CallRefused with SECRET_INVALID for an object with `$secret` that is no reference."""
    if isinstance(value, str):
        return
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        if _KEY in members:
            name = members[_KEY]
            if not isinstance(name, str) or len(members) > 1:
                raise CallRefused("SECRET_INVALID", 'a secret reference is {"$secret": "<name>"}, without other members')
            yield name
            return
        for member in members.values():
            yield from secret_names(member)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from secret_names(item)


def require_declared(settings: AdapterSettings, args: Mapping[str, object]) -> None:
    """Raise CallRefused with SECRET_UNKNOWN or SECRET_INVALID unless each reference names a secret that the adapter file declares."""
    for name in secret_names(args):
        if name not in settings.secrets:
            raise CallRefused("SECRET_UNKNOWN", f"adapter {settings.adapter_id} declares no secret {name[:100]!r}")


class Credentials:
    """The secrets of one run: what its calls were given so far."""

    def __init__(self, settings: AdapterSettings) -> None:
        self._settings = settings
        self._values: dict[str, str] = {}
        self._pointers = tuple(parse_pointer(text) for text in settings.redact)
        self.redactor = Redactor({}, self._pointers)

    def resolve(self, args: Mapping[str, object]) -> dict[str, object]:
        """The arguments with values in the place of references. Raises CallFailed with SECRET_MISSING; nothing was sent."""
        values = {name: self._read(name) for name in secret_names(args)}
        self._know(values)
        return cast("dict[str, object]", _filled(args, values))

    def environment(self, names: Iterable[str]) -> dict[str, str]:
        """The host's values of variables. Those with a name such as `API_TOKEN` are secrets, and so are passwords in URLs.

        Raises CallFailed with ENV_INVALID when one is not set; nothing was sent.
        """
        found = {name: _variable(name) for name in names}
        secrets = {name: value for name, value in found.items() if value and variable_names_a_secret(name)}
        for name, value in found.items():
            for password in passwords_of(value):
                secrets[f"{name} password"] = password
        for name, value in secrets.items():
            _require_text(value, "ENV_INVALID", f"The environment variable {name}")
        self._know(secrets)
        return found

    def headers(self, names: Mapping[str, str]) -> dict[str, str]:
        """Header names with the host's values of the variables named for them, all of them secrets.

        Raises CallFailed with ENV_INVALID when one is not set or no header value; nothing was sent.
        """
        found = {header: _variable(name) for header, name in names.items()}
        for header, name in names.items():
            if not found[header].isascii() or not found[header].isprintable() or found[header].strip() in ("", "Bearer"):
                raise _unusable("ENV_INVALID", f"The environment variable {name} holds no header value")
        secrets = {name: found[header] for header, name in names.items()}
        # `Bearer <token>`: a service that gives the token back gives it back alone.
        self._know(secrets | {f"{name} token": value.split()[-1] for name, value in secrets.items() if len(value.split()) > 1})
        return found

    def _know(self, values: Mapping[str, str]) -> None:
        if any(self._values.get(name) != value for name, value in values.items()):
            # A value that changed during the run (a rotated file) does not make the former one harmless.
            for name, value in values.items():
                former = self._values.get(name)
                if former is not None and former != value:
                    self._values[f"{name}, former {len(self._values)}"] = former
                self._values[name] = value
            self.redactor = Redactor(self._values, self._pointers)

    def _read(self, name: str) -> str:
        kind, _, place = self._settings.secrets[name].partition(":")
        value = os.environ.get(place, "") if kind == "env" else self._read_file(name, self._settings.base_dir / place)
        if not value:
            raise _unusable("SECRET_MISSING", f"The secret {name} is not set: {kind}:{place}")
        _require_text(value, "SECRET_MISSING", f"The secret {name}")
        return value

    def _read_file(self, name: str, path: Path) -> str:
        try:
            return read_file(path, _MOST_BYTES).decode().removesuffix("\n").removesuffix("\r")
        except FileRefused as problem:
            raise _unusable("SECRET_MISSING", f"The secret {name} cannot be read: {problem}") from None
        except UnicodeDecodeError:
            raise _unusable("SECRET_MISSING", f"The secret {name} is no UTF-8 text") from None


def _filled(value: object, values: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        if _KEY in members:
            return values[cast("str", members[_KEY])]
        return {key: _filled(member, values) for key, member in members.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in cast("list[object]", value)]
    return value


def _variable(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise _unusable("ENV_INVALID", f"The environment variable {name} is not set") from None


def _require_text(value: str, code: str, what: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _unusable(code, f"{what} is no UTF-8 text") from None


def _unusable(code: str, message: str) -> CallFailed:
    return CallFailed(code, message, outcome=CallOutcome.NOT_SENT)
