"""The governance engine: decides, records, packages and verifies, with the Python standard library only.

The names below load their module when they are first used, so importing the package, or one module of it, costs no more than that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_control.audit_export import export_audit_package
    from nexus_control.audit_package import PACKAGE_VERSION, AuditPackage, VerificationResult, verify_audit_package
    from nexus_control.bundle import BUNDLE_VERSION, DecisionBundle
    from nexus_control.decision import Decision, DecisionState, TemplateRef
    from nexus_control.events import Actor, EventType
    from nexus_control.export import export_decision
    from nexus_control.import_ import import_bundle
    from nexus_control.lifecycle import (
        DEFAULT_TIMELINE_LIMIT,
        BlockingReason,
        Lifecycle,
        LifecycleEntry,
        LifecycleProgress,
        compute_lifecycle,
    )
    from nexus_control.policy import Policy
    from nexus_control.store import DecisionStore
    from nexus_control.template import Template, TemplateStore
    from nexus_control.tool import NexusControlTools, ToolResult

__version__ = "1.0.0"

__all__ = [
    "BUNDLE_VERSION",
    "DEFAULT_TIMELINE_LIMIT",
    "PACKAGE_VERSION",
    "Actor",
    "AuditPackage",
    "BlockingReason",
    "Decision",
    "DecisionBundle",
    "DecisionState",
    "DecisionStore",
    "EventType",
    "Lifecycle",
    "LifecycleEntry",
    "LifecycleProgress",
    "NexusControlTools",
    "Policy",
    "Template",
    "TemplateRef",
    "TemplateStore",
    "ToolResult",
    "VerificationResult",
    "__version__",
    "compute_lifecycle",
    "export_audit_package",
    "export_decision",
    "import_bundle",
    "verify_audit_package",
]

_NAMES = {
    "audit_export": ("export_audit_package",),
    "audit_package": ("PACKAGE_VERSION", "AuditPackage", "VerificationResult", "verify_audit_package"),
    "bundle": ("BUNDLE_VERSION", "DecisionBundle"),
    "decision": ("Decision", "DecisionState", "TemplateRef"),
    "events": ("Actor", "EventType"),
    "export": ("export_decision",),
    "import_": ("import_bundle",),
    "lifecycle": (
        "DEFAULT_TIMELINE_LIMIT",
        "BlockingReason",
        "Lifecycle",
        "LifecycleEntry",
        "LifecycleProgress",
        "compute_lifecycle",
    ),
    "policy": ("Policy",),
    "store": ("DecisionStore",),
    "template": ("Template", "TemplateStore"),
    "tool": ("NexusControlTools", "ToolResult"),
}
PUBLISHED = frozenset({*_NAMES, "canonical_json", "errors", "evidence", "identity", "integrity", "merkle"})
"""The engine's public modules; `nexus_attest` has a mirror of each."""

_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker that saw this function would accept every name

    def __getattr__(name: str) -> Any:
        """PEP 562: a public name or module on its first use."""
        if name in PUBLISHED:
            return import_module(f"{__name__}.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
