"""What only a server can refuse, as errors with stable codes. A model sees code, text and what to do next."""

from collections.abc import Sequence

from nexus_control.errors import CommandRefused, IdentityRefused, InputError, NexusError

__all__ = [
    "ActorMismatch",
    "ApprovalPending",
    "HumanDeclined",
    "HumanRequired",
    "InvalidArguments",
    "NotAuthenticated",
    "RouterMissing",
    "ScopeMissing",
    "ServerConfigError",
]


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


class NotAuthenticated(IdentityRefused):
    """There is no token, or none that is to be believed."""

    code = "NOT_AUTHENTICATED"


class ScopeMissing(IdentityRefused):
    """The caller's token does not allow this tool."""

    code = "SCOPE_MISSING"


class ActorMismatch(IdentityRefused):
    """The argument names another actor than the one that the caller is bound to."""

    code = "ACTOR_MISMATCH"


class HumanRequired(CommandRefused):
    """A person has to decide this, and could not be asked through the client; the text has the command to run."""

    code = "HUMAN_REQUIRED"

    def __init__(self, problem: str, command: str) -> None:
        super().__init__(f"{problem}: `{command}`")
        self.command = command


class ApprovalPending(CommandRefused):
    """A person has to decide this on a page of this machine, or at a terminal, and has not done so yet."""

    code = "APPROVAL_PENDING"

    def __init__(self, problem: str, url: str, command: str) -> None:
        super().__init__(f"{problem}: the page is {url} , the command `{command}`")
        self.url = url
        self.command = command


class HumanDeclined(CommandRefused):
    """The person was asked and said no."""

    code = "HUMAN_DECLINED"
