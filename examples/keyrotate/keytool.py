"""Rotate secret keys in files: a program that knows nothing of nexus-attest except how it is called.

    keytool.py call keys rotate --json-args-file FILE      args {"path": key file, "bits": 256}
    keytool.py call keys list --json-args-file FILE        args {"dir": folder}

FILE holds one JSON object {"tool", "method", "args"}. The answer is one JSON object on standard output; it names keys by the SHA-256 of
their file, never by content. Exit code 2: the call or its arguments are wrong, nothing was done. Exit code 1: the file system refused.

A key file holds the secret in hexadecimal and a line feed, mode 0600. Rotation never leaves a moment without a key: the old one is
copied to `<name>.1`, then the new file takes its place in one step, and both are on the disk before the answer.
"""

import fcntl
import hashlib
import json
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast


class UsageError(Exception):
    """The call or its arguments are wrong."""


def rotate(args: dict[str, Any]) -> dict[str, object]:
    """Replace a key by a new random one and keep the old one."""
    unknown = args.keys() - {"path", "bits"}
    if unknown:
        raise UsageError(f"unknown argument {min(unknown)!r}")
    path, bits = _path(args.get("path"), "path"), args.get("bits", 256)
    if type(bits) is not int or not 128 <= bits <= 4096 or bits % 8:
        raise UsageError("bits must be a multiple of 8 from 128 to 4096")
    if not _is_plain_file(path):
        raise UsageError(f"no key file: {path}")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # two rotations at once would lose one of the new keys
        old = path.read_bytes()
        new = (secrets.token_hex(bits // 8) + "\n").encode()
        kept = path.with_name(path.name + ".1")
        _replace(kept, old)
        os.fsync(folder)
        _replace(path, new)
        os.fsync(folder)
    finally:
        os.close(folder)
    return {"rotated": str(path), "bits": bits, "old": _fingerprint(old), "new": _fingerprint(new), "kept_as": str(kept)}


def list_keys(args: dict[str, Any]) -> dict[str, object]:
    """The key files of a folder, `*.key` and the old ones `*.key.1`, by name and fingerprint."""
    if args.keys() != {"dir"}:
        raise UsageError("the only argument is dir")
    folder = _path(args["dir"], "dir")
    if not folder.is_dir():
        raise UsageError(f"no folder: {folder}")
    files = [file for file in sorted([*folder.glob("*.key"), *folder.glob("*.key.1")]) if _is_plain_file(file)]
    return {"keys": [{"name": file.name, "fingerprint": _fingerprint(file.read_bytes())} for file in files]}


def _replace(path: Path, content: bytes) -> None:
    """Give `path` this content, mode 0600: readers see the old file or the whole new one, also after a crash."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


def _is_plain_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _path(value: object, name: str) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{name} must be a path")
    return Path(value)


def _fingerprint(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


_METHODS: dict[tuple[str, str], Callable[[dict[str, Any]], dict[str, object]]] = {
    ("keys", "rotate"): rotate,
    ("keys", "list"): list_keys,
}


def main(argv: list[str]) -> int:
    """Answer one call; the exit code."""
    try:
        match argv:
            case ["call", tool, method, "--json-args-file", file] if (tool, method) in _METHODS:
                request: object = json.loads(Path(file).read_text(encoding="utf-8"))
            case _:
                raise UsageError("usage: keytool.py call keys (rotate|list) --json-args-file FILE")
        args: object = cast("dict[str, object]", request).get("args") if isinstance(request, dict) else None
        if not isinstance(args, dict):
            raise UsageError("the arguments file holds no object with args")
        answer = _METHODS[tool, method](cast("dict[str, Any]", args))
    except (UsageError, ValueError) as problem:
        print(f"keytool: {problem}", file=sys.stderr)
        return 2
    except OSError as problem:
        print(f"keytool: {problem}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
