"""States, by class name."""

from typing import Any


class State:
    async def handle_message(self, message: dict[str, Any], component: Any) -> tuple[bool, "State"]:  # noqa: ARG002
        return False, self


class StateRegistry:
    def __init__(self) -> None:
        self._states: dict[str, type[State]] = {}

    def register(self, name: str, cls: type[State]) -> None:
        self._states[name] = cls

    def create(self, name: str) -> State:
        return self._states[name]()


DEFAULT_REGISTRY = StateRegistry()


class StateMachine:
    def __init__(self, current_state: State) -> None:
        self.current_state = current_state

    @classmethod
    def from_name(cls, name: str, registry: StateRegistry = DEFAULT_REGISTRY) -> "StateMachine":
        return cls(current_state=registry.create(name))
