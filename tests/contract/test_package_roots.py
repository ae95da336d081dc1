"""What `import nexus_attest` and `import nexus_control` offer."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import nexus_attest
import nexus_attest.audit_export
import nexus_attest.import_
import nexus_control

ROOT = Path(__file__).resolve().parents[2]

EXPORTS = [
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


def test_roots_export_exactly_the_published_names() -> None:
    assert nexus_control.__all__ == EXPORTS
    assert nexus_attest.__all__ == EXPORTS


def test_roots_export_the_same_objects() -> None:
    assert [name for name in EXPORTS if getattr(nexus_attest, name) is not getattr(nexus_control, name)] == []


@pytest.mark.parametrize("package", [nexus_attest, nexus_control], ids=lambda package: package.__name__)
def test_roots_list_their_names_and_have_no_others(package: ModuleType) -> None:
    assert set(dir(package)) >= set(EXPORTS)
    assert not hasattr(package, "NexusControlTool")


def test_import_and_export_of_the_root_are_the_functions_over_a_store() -> None:
    assert nexus_attest.import_bundle is nexus_attest.import_.import_bundle
    assert nexus_attest.export_audit_package is nexus_attest.audit_export.export_audit_package


def test_version_is_the_static_one_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project.get("dynamic", [])
    assert project["version"] == nexus_attest.__version__ == nexus_control.__version__
    assert re.fullmatch(r"[1-9]\d*\.\d+\.\d+", project["version"])


@pytest.mark.parametrize("root", ["nexus_control", "nexus_attest"])
def test_the_modules_of_a_root_are_its_attributes_without_being_imported_first(root: str) -> None:
    code = f"import {root}; assert {root}.events.Actor is {root}.Actor; assert {root}.tool.ToolResult is {root}.ToolResult"
    subprocess.run([sys.executable, "-c", code], check=True)
