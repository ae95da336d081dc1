"""Components on one bus."""

from .component import AsyncComponent
from .event_bus import EventBus


class FlexiFlowEngine:
    def __init__(self) -> None:
        self.event_bus = EventBus()
        self._components: dict[str, AsyncComponent] = {}

    async def register_async(self, component: AsyncComponent) -> None:
        component.event_bus = self.event_bus
        self._components[component.name] = component
        await self.event_bus.publish("engine.component.registered", {"component": component.name})

    def get(self, name: str) -> AsyncComponent | None:
        return self._components.get(name)
