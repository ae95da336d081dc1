"""Whoever can sign: a key file, an environment variable, or a program in front of a hardware key or a key service.

    alice                 the key `alice` of the key folder
    ./alice.key           a key file (anything with a slash or the suffix .key)
    env:NEXUS_KEY         32 bytes of private key in base64 in an environment variable
    program:kms-sign --key 7    an external signer; its words are split as a shell would, and no shell runs them

An external signer reads one JSON object from standard input and writes one to standard output, then exits with 0:

    {"v": 1, "operation": "public_key"}                              {"public_key": "<base64 of 32 bytes>"}
    {"v": 1, "operation": "sign", "message": "<base64>"}             {"signature": "<base64 of 64 bytes>"}

The signature is Ed25519 (RFC 8032) over the message as it is. The program gets 30 seconds and our environment, writes to our standard
error, and has no terminal; it is killed with all that it started when it takes longer or writes more than 4 KiB. Each signature is
checked before it is used. POSIX only.
"""

import json
import os
import selectors
import shlex
import signal
import subprocess
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

from nexus_attest import ed25519
from nexus_attest.key_errors import KeyInvalid, KeyNotFound, SignerFailed
from nexus_attest.keys import Passphrase, decoded_seed, key_path, open_key
from nexus_control.decision import Decision
from nexus_control.errors import MalformedBundle
from nexus_control.events import Actor
from nexus_control.identity import PAYLOAD_TYPE, Action, Envelope, Statement, pae
from nexus_control.integrity import prefixed
from nexus_control.json_data import parse_json

__all__ = ["ExternalSigner", "Signer", "SignerProgram", "open_signer", "sign_statement", "statement_about"]

_SECONDS = 30.0
_MAX_ANSWER_BYTES = 4096
_TICK_SECONDS = 0.005
_REAP_SECONDS = 5.0


class Signer(Protocol):
    """A private key, wherever it is."""

    @property
    def key_id(self) -> str:
        """The id by which verifiers find the public key."""
        ...

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature of a message, 64 bytes. Raises SignerFailed when it cannot be made."""
        ...


def open_signer(source: str, folder: Path, passphrase: Passphrase) -> Signer:
    """The signer that `source` names, in one of the forms above; `folder` is the key folder.

    Raises what opening a key file raises, KeyNotFound, KeyInvalid or SignerFailed.
    """
    kind, colon, rest = source.partition(":")
    if colon and kind == "env":
        text = os.environ.get(rest)
        if not text:
            raise KeyNotFound(f"the environment variable {rest:.100} is not set")
        return decoded_seed(text, f"the environment variable {rest:.100}")
    if colon and kind == "program":
        try:
            command = shlex.split(rest)
        except ValueError as problem:
            raise KeyInvalid(f"the command of the signer cannot be split into words: {problem}") from None
        if not command:
            raise KeyInvalid("program: must be followed by a command")
        return ExternalSigner(command)
    return open_key(key_path(source, folder), passphrase)


def statement_about(
    decision: Decision, action: Action, actor: Actor, signed_at: datetime, *, comment: str | None = None, expires_at: datetime | None = None
) -> Statement:
    """What `actor` says about a decision as it is now: the statement to sign. `comment` is the reason of a revocation.

    Raises MalformedEvent for a decision whose action has no digest.
    """
    return Statement(
        action=action,
        decision_id=decision.decision_id,
        action_digest=prefixed(decision.action_digest),
        actor=actor,
        signed_at=signed_at.astimezone(UTC).isoformat(),
        comment=comment or None,
        expires_at=None if expires_at is None else expires_at.astimezone(UTC).isoformat(),
    )


def sign_statement(statement: Statement, signer: Signer) -> dict[str, Any]:
    """The DSSE envelope of a statement, as JSON data. Raises InvalidEnvelope for a statement that nobody could read, SignerFailed."""
    payload = statement.payload()
    return Envelope(statement, payload, signer.key_id, signer.sign(pae(PAYLOAD_TYPE, payload))).to_dict()


class ExternalSigner:
    """A program that signs. Asked for its public key when it is made; raises SignerFailed whenever it does not answer as it must."""

    def __init__(self, command: Sequence[str], *, seconds: float = _SECONDS) -> None:
        self._program = SignerProgram(command, seconds=seconds)
        self.public_key = self._program.ask({"operation": "public_key"}, "public_key", (ed25519.PUBLIC_KEY_BYTES,))
        if not ed25519.is_public_key(self.public_key):
            raise self._program.failed("gave no Ed25519 public key")
        self.key_id = ed25519.key_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """The signature, checked."""
        request = {"operation": "sign", "message": b64encode(message).decode()}
        signature = self._program.ask(request, "signature", (ed25519.SIGNATURE_BYTES,))
        if not ed25519.verify(self.public_key, message, signature):
            raise self._program.failed("gave a signature that is not one of its key")
        return signature


class SignerProgram:
    """A program that holds a private key, asked one thing at a time, each by a run of its own. Its answers are judged by the caller."""

    def __init__(self, command: Sequence[str], *, seconds: float = _SECONDS) -> None:
        self._command = tuple(command)
        self._seconds = seconds

    def ask(self, request: dict[str, Any], member: str, sizes: Collection[int]) -> bytes:
        """The bytes of its answer's one member. Raises SignerFailed for another answer or number of bytes."""
        found = _answer(self._run(json.dumps({"v": 1, **request}).encode()), member)
        if isinstance(found, str):
            raise self.failed(found)
        if len(found) not in sizes:
            del found  # a traceback may be shown with the variables of its frames
            raise self.failed(f"must answer with {_spelled(sizes)} bytes in base64")
        return found

    def _run(self, request: bytes) -> bytes:
        if not hasattr(os, "killpg"):
            raise self.failed("needs POSIX process groups")
        # A file as standard input: whether the program reads it, and when, cannot block us.
        with tempfile.TemporaryFile() as file:
            file.write(request)
            file.seek(0)
            try:
                process = subprocess.Popen(self._command, stdin=file, stdout=subprocess.PIPE, start_new_session=True, bufsize=0)
            except (OSError, ValueError) as error:
                raise self.failed(f"cannot be started: {getattr(error, 'strerror', None) or 'not a command'}") from None
        try:
            output = self._read(process)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_REAP_SECONDS)
            cast("Any", process.stdout).close()
        if process.returncode != 0:
            del output  # as above
            raise self.failed(f"ended with exit code {process.returncode}")
        return output

    def _read(self, process: "subprocess.Popen[bytes]") -> bytes:
        """What it wrote until it ended by itself; children that keep its output open are not waited for."""
        end = time.monotonic() + self._seconds
        pipe: Any = process.stdout
        output = b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                # Asked before reading: once it has ended, all that it wrote is in the pipe already.
                ended = _has_ended(process)
                if not ended and time.monotonic() >= end:
                    output = chunk = b""  # as above
                    raise self.failed(f"took more than {self._seconds:g} seconds")
                ready = selector.select(0 if ended else _TICK_SECONDS)
                chunk = os.read(pipe.fileno(), _MAX_ANSWER_BYTES) if ready else b""
                output += chunk
                if len(output) > _MAX_ANSWER_BYTES:
                    output = chunk = b""
                    raise self.failed(f"wrote more than {_MAX_ANSWER_BYTES} bytes")
                if ended and not chunk:
                    return output
                if ready and not chunk:  # closed; what is left is to wait for its end
                    time.sleep(_TICK_SECONDS)

    def failed(self, what: str) -> SignerFailed:
        """The error to raise about this program."""
        return SignerFailed(f"the signer {self._command[0]!r:.200} {what}")


def _answer(output: bytes, member: str) -> bytes | str:
    """The bytes of the one member, or what is wrong. Raises nothing: an answer may hold a secret by mistake, and frames are shown."""
    try:
        answer: object = parse_json(output)
    except MalformedBundle:
        return "wrote something else than one JSON object"
    if not isinstance(answer, dict) or set(cast("dict[str, Any]", answer)) != {member}:
        return f"must answer with the member {member} alone"
    text: object = cast("dict[str, Any]", answer)[member]
    with suppress(ValueError):
        return b64decode(text, validate=True) if isinstance(text, str) else b""
    return b""


def _spelled(sizes: Collection[int]) -> str:
    return str(min(sizes)) if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it has ended. It is left unreaped, so that its number cannot be somebody else's when the group is killed."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:  # somebody else reaped it
        return True
