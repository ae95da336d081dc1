"""What only a server can refuse, as errors with stable codes. A model sees code, text and what to do next."""

from collections.abc import Sequence

from nexus_control.errors import InputError, NexusError

__all__ = ["InvalidArguments", "RouterMissing", "ServerConfigError"]


class InvalidArguments(InputError):
    """The arguments of a tool call do not satisfy its schema; `paths` are the JSON paths of the wrong ones."""

    code = "INVALID_ARGUMENTS"

    def __init__(self, message: str, paths: Sequence[str]) -> None:
        super().__init__(message)
        self.paths = tuple(paths)


class RouterMissing(NexusError):
    """The server was started without adapters, so nothing can be executed through it."""

    code = "ROUTER_NOT_CONFIGURED"


class ServerConfigError(InputError):
    """The options of a server contradict each other, or would make it unsafe."""

    code = "SERVER_CONFIG_INVALID"
