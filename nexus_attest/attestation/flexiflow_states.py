"""Ready-made states for FlexiFlow: with these, witnessing needs a YAML file and a task that sends `attest.process`.

    AttestIdle --attest.process--> AttestConfirmed | AttestFailed | AttestDeferred     NOOP: stays
    AttestConfirmed, AttestFailed, AttestDeferred --attest.process--> the same          reset: AttestIdle

After each cycle the result stands on the component as `attestation_result`, and goes out on the event bus as `attestation.processed` with
`{"component": name, **result}`. An exception of the handler passes to whoever sent the message; the state is kept.

FlexiFlow is imported when the first of the four classes is asked for, as `flexiflow_states.AttestIdle` or by a loader; where it is missing
the classes work without its base class.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast

from nexus_attest.attestation import flexiflow_adapter

__all__ = ["AttestConfirmed", "AttestDeferred", "AttestFailed", "AttestIdle", "configure_attestation"]

PROCESS, RESET, PROCESSED = "attest.process", "reset", "attestation.processed"

_NEXT = {"CONFIRMED": "AttestConfirmed", "FAILED": "AttestFailed", "DEFERRED": "AttestDeferred"}
_MEANING = {
    "AttestIdle": "Nothing was processed yet, or there was nothing to do.",
    "AttestConfirmed": "The last intent is in a validated ledger.",
    "AttestFailed": "The last attempt failed; the result says why, the queue whether it is tried again.",
    "AttestDeferred": "The last intent is under way; the next cycle asks again.",
}

_settings: dict[str, Any] = {}


def configure_attestation(settings: Mapping[str, Any]) -> None:
    """The application's context for the handler, once at start. What it gives, messages cannot change."""
    global _settings
    _settings = dict(settings)


class _AttestState:
    """What the four states share."""

    idle: ClassVar[bool] = False

    async def handle_message(self, message: dict[str, Any], component: Any) -> tuple[bool, Any]:
        kind = message.get("type")
        if kind == RESET and not self.idle:
            return True, _state("AttestIdle")
        if kind != PROCESS:
            return False, self
        result = await flexiflow_adapter.attest_xrpl_process_one(_context(message.get("content")))
        component.attestation_result = result
        bus = getattr(component, "event_bus", None)
        if bus is not None:
            await bus.publish(PROCESSED, {"component": component.name, **result})
        name = _NEXT.get(result["outcome"])
        return (False, self) if name is None else (True, _state(name))


def _context(content: object) -> dict[str, Any]:
    """A message may say what the application left open, in plain data; who signs and what is called is never its business."""
    told = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    return {**{key: value for key, value in told.items() if key in flexiflow_adapter.CONTEXT_KEYS}, **_settings}


def _state(name: str) -> Any:
    return (globals().get(name) or __getattr__(name))()


def _base() -> type:
    """FlexiFlow's State, so that its loader takes ours for states."""
    for module in ("flexiflow", "flexiflow.state_machine"):
        try:
            found = getattr(import_module(module), "State", None)
        except ImportError:
            continue
        if isinstance(found, type):
            return cast("type[object]", found)
    return object


if TYPE_CHECKING:

    class AttestIdle(_AttestState): ...

    class AttestConfirmed(_AttestState): ...

    class AttestFailed(_AttestState): ...

    class AttestDeferred(_AttestState): ...


def __getattr__(name: str) -> Any:
    if name not in _MEANING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    members = {"__doc__": _MEANING[name], "__module__": __name__, "idle": name == "AttestIdle"}
    made = type(name, (_AttestState, _base()) if _base() is not object else (_AttestState,), members)
    return globals().setdefault(name, made)
