"""What the adapters of an adapter file have in common: their names and powers, and what is checked before anything is started."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import ClassVar, Generic, TypeVar

from nexus_attest.redaction import literal_secrets
from nexus_attest.routers.credentials import Credentials, require_declared
from nexus_attest.routers.errors import CallFailed, CallRefused
from nexus_attest.routers.settings import AdapterSettings
from nexus_control.plan import Step

__all__ = ["ConfiguredAdapter"]

S = TypeVar("S", bound=AdapterSettings)


class ConfiguredAdapter(ABC, Generic[S]):
    """An adapter as its settings say. Subclasses add what is needed on the spot, and the session."""

    capabilities = frozenset({"apply", "external", "timeout"})
    names: ClassVar[re.Pattern[str]] = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
    """Tool and method names become arguments of a command or parts of a URL: `--flag`, `..`, `a/b` and `?x=1` must not get there."""

    def __init__(self, settings: S) -> None:
        self.settings = settings
        self.adapter_id = settings.adapter_id
        self.adapter_kind = settings.kind
        self.default_call = settings.default_call
        self.idempotent = settings.idempotent
        self.timeout_s = float(settings.timeout_s)
        self.definition_digest = settings.digest()

    def check(self, step: Step) -> None:
        """Raises CallRefused: INVALID_NAME, CALL_NOT_ALLOWED (no pattern of `allow` covers the call), SECRET_IN_PLAN, SECRET_UNKNOWN or
        SECRET_INVALID.
        """
        for what, name in (("tool", step.tool), ("method", step.method)):
            if not self.names.fullmatch(name):
                raise CallRefused("INVALID_NAME", f"{what} name {name[:100]!r} must match {self.names.pattern}")
        if not any(fnmatchcase(f"{step.tool}/{step.method}", pattern) for pattern in self.settings.allow):
            raise CallRefused("CALL_NOT_ALLOWED", f"adapter {self.adapter_id} does not allow {step.tool}/{step.method}"[:300])
        require_declared(self.settings, step.args)
        if not self.settings.allow_literal_secrets and (found := literal_secrets(step.args)):
            raise CallRefused(
                "SECRET_IN_PLAN",
                f"the args of step {step.step_id[:100]} hold what looks like a secret, at {found[0][:200]};"
                ' declare it in the adapter file and refer to it as {"$secret": "<name>"}',
            )

    def preflight(self, steps: Sequence[Step]) -> None:
        """Raises CallRefused when a variable, a secret, a file or the working directory that these calls need is not there.

        Without steps: that any call may need, so all secrets of the adapter file.
        """
        credentials = Credentials(self.settings)
        try:
            self.prepare(credentials)
            for args in [step.args for step in steps] or [{name: {"$secret": name} for name in self.settings.secrets}]:
                credentials.resolve(args)
        except CallFailed as problem:
            raise CallRefused(problem.code, str(problem)) from None

    @abstractmethod
    def prepare(self, credentials: Credentials) -> None:
        """Look for what every call needs. Raises CallFailed."""
