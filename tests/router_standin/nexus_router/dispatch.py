"""Adapters and their registry."""

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Protocol

from .exceptions import NexusBugError, NexusOperationalError


class DispatchAdapter(Protocol):
    @property
    def adapter_id(self) -> str: ...
    @property
    def adapter_kind(self) -> str: ...
    @property
    def capabilities(self) -> frozenset[str]: ...
    def call(self, tool: str, method: str, args: dict[str, Any]) -> Any: ...


class NullAdapter:
    adapter_kind = "null"
    capabilities = frozenset({"dry_run"})

    def __init__(self, adapter_id: str = "null") -> None:
        self.adapter_id = adapter_id

    def call(self, tool: str, method: str, args: dict[str, Any]) -> dict[str, Any]:
        return {"simulated": True, "tool": tool, "method": method, "args": args}


class FakeAdapter:
    adapter_kind = "fake"

    def __init__(self, adapter_id: str = "fake", capabilities: frozenset[str] | None = None) -> None:
        self.adapter_id = adapter_id
        self.capabilities = frozenset({"dry_run", "apply"}) if capabilities is None else capabilities
        self.call_log: list[dict[str, Any]] = []
        self._answers: dict[tuple[str, str], Any] = {}
        self._default: Any = {"result": "ok"}

    def set_response(self, tool: str, method: str, response: Any) -> None:
        self._answers[tool, method] = response

    def set_default_response(self, response: Any) -> None:
        self._default = response

    def set_operational_error(self, tool: str, method: str, message: str, error_code: str = "OPERATIONAL_ERROR") -> None:
        self._answers[tool, method] = NexusOperationalError(message, error_code=error_code)

    def set_bug_error(self, tool: str, method: str, message: str, error_code: str = "BUG_ERROR") -> None:
        self._answers[tool, method] = NexusBugError(message, error_code=error_code)

    def call(self, tool: str, method: str, args: dict[str, Any]) -> Any:
        self.call_log.append({"tool": tool, "method": method, "args": args})
        answer = self._answers.get((tool, method), self._default)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class SubprocessAdapter:
    adapter_kind = "subprocess"
    capabilities = frozenset({"apply", "timeout", "external"})

    def __init__(
        self,
        base_cmd: list[str],
        *,
        adapter_id: str | None = None,
        timeout_s: float = 30.0,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        named = hashlib.sha256(" ".join(base_cmd).encode()).hexdigest()[:6]
        self.adapter_id = adapter_id or f"subprocess:{Path(base_cmd[0]).name}:{named}"
        self._base_cmd, self._timeout_s, self._cwd, self._env = base_cmd, timeout_s, cwd, env or {}

    def call(self, tool: str, method: str, args: dict[str, Any]) -> Any:
        text = json.dumps({"args": args, "method": method, "tool": tool}, sort_keys=True, separators=(",", ":"))
        with tempfile.NamedTemporaryFile("w", prefix="nexus-router-args-", suffix=".json") as file:  # made with mode 0600
            file.write(text)
            file.flush()
            command = [*self._base_cmd, "call", tool, method, "--json-args-file", file.name]
            try:
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    timeout=self._timeout_s,
                    cwd=self._cwd,
                    env={**os.environ, **self._env},
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NexusOperationalError(f"Command timed out after {self._timeout_s}s", error_code="TIMEOUT") from None
            except FileNotFoundError:
                raise NexusOperationalError(f"Command not found: {command[0]}", error_code="COMMAND_NOT_FOUND") from None
        if done.returncode:
            raise NexusOperationalError(f"Command exited with code {done.returncode}", error_code="NONZERO_EXIT")
        try:
            answer: object = json.loads(done.stdout)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise NexusOperationalError("Command did not print a JSON object", error_code="INVALID_JSON_OUTPUT")
        return answer  # pyright: ignore[reportUnknownVariableType]


class AdapterRegistry:
    def __init__(self, default_adapter_id: str = "null") -> None:
        self.default_adapter_id = default_adapter_id
        self._adapters: dict[str, DispatchAdapter] = {}

    def register(self, adapter: DispatchAdapter) -> None:
        if adapter.adapter_id in self._adapters:
            raise ValueError(f"Adapter already registered: {adapter.adapter_id}")
        self._adapters[adapter.adapter_id] = adapter

    def get(self, adapter_id: str) -> DispatchAdapter:
        return self._adapters[adapter_id]

    def get_default(self) -> DispatchAdapter:
        return self._adapters[self.default_adapter_id]

    def list_ids(self) -> list[str]:
        return sorted(self._adapters)

    def list_adapters(self) -> list[DispatchAdapter]:
        return list(self._adapters.values())

    def find_by_capability(self, capability: str) -> list[DispatchAdapter]:
        return [adapter for adapter in self._adapters.values() if capability in adapter.capabilities]

    def has_capability(self, adapter_id: str, capability: str) -> bool:
        return capability in self._adapters[adapter_id].capabilities

    def require_capability(self, adapter_id: str, capability: str) -> None:
        if not self.has_capability(adapter_id, capability):
            raise NexusOperationalError(f"Adapter {adapter_id} lacks capability {capability}", error_code="CAPABILITY_MISSING")

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, adapter_id: object) -> bool:
        return adapter_id in self._adapters
