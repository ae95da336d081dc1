"""A stand-in for FlexiFlow 1.0, which is not on the package registry: components with states, an event bus, YAML.

Written from a description of how the package behaves when it is executed, as far as attestation uses it.
"""

from .component import AsyncComponent, load_component
from .engine import FlexiFlowEngine
from .event_bus import EventBus
from .state_machine import DEFAULT_REGISTRY, State, StateMachine, StateRegistry

__version__ = "1.0.1"
__all__ = ["DEFAULT_REGISTRY", "AsyncComponent", "EventBus", "FlexiFlowEngine", "State", "StateMachine", "StateRegistry", "load_component"]
