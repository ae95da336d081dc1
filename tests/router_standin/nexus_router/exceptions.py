"""Errors: expected ones, and bugs."""

from typing import Any


class NexusError(Exception):
    def __init__(self, message: str, *, error_code: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.details = details or {}


class NexusOperationalError(NexusError):
    def __init__(self, message: str, *, error_code: str = "OPERATIONAL_ERROR", details: dict[str, Any] | None = None) -> None:
        super().__init__(message, error_code=error_code, details=details)


class NexusBugError(NexusError):
    def __init__(self, message: str, *, error_code: str = "BUG_ERROR", details: dict[str, Any] | None = None) -> None:
        super().__init__(message, error_code=error_code, details=details)
