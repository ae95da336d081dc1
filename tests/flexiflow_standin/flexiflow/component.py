"""Components, and their form in YAML."""

from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from .event_bus import EventBus
from .state_machine import State, StateMachine, StateRegistry


class AsyncComponent:
    def __init__(
        self, name: str, rules: list[Any] | None = None, *, state_machine: StateMachine, event_bus: EventBus | None = None
    ) -> None:
        self.name = name
        self.rules = rules or []
        self.state_machine = state_machine
        self.event_bus = event_bus

    async def handle_message(self, message: dict[str, Any]) -> None:
        """An exception of the state passes to the caller; the state is kept."""
        if self.event_bus is not None:
            await self.event_bus.publish("component.message.received", {"component": self.name, "message": message})
        before = self.state_machine.current_state
        moved, after = await before.handle_message(message, self)
        if not moved:
            return
        self.state_machine.current_state = after
        if self.event_bus is not None:
            names = {"from_state": type(before).__name__, "to_state": type(after).__name__}
            await self.event_bus.publish("state.changed", {"component": self.name, **names})


def load_component(path: str | Path, event_bus: EventBus | None = None) -> AsyncComponent:
    """`name`, `rules`, `initial_state`, and `states`, a mapping of class names to `module:Class`."""
    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    registry = StateRegistry()
    for name, reference in config["states"].items():
        module, _, attribute = reference.partition(":")
        found = getattr(import_module(module), attribute)
        if not issubclass(found, State):
            raise TypeError(f"{reference} is no State")
        if found.__name__ != name:
            raise ValueError(f"{reference} is registered as {found.__name__}, not {name}")
        registry.register(found.__name__, found)
    machine = StateMachine.from_name(config["initial_state"], registry)
    return AsyncComponent(config["name"], config.get("rules"), state_machine=machine, event_bus=event_bus)
