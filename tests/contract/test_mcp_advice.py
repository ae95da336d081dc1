"""Every error that a tool call can answer says what to do next."""

import ast
import re
from pathlib import Path

import pytest

from nexus_attest.server.advice import ADVICE, FAILED_RUN, next_step
from nexus_attest.server.discretion import FAULTS
from nexus_attest.server.names import canonical_name
from nexus_attest.server.registry import TOOLS
from nexus_attest.server.results import failure
from nexus_control.errors import NexusError

DOCS = Path(__file__).resolve().parents[2] / "docs"

NOT_OF_TOOLS = {
    *("KEY_NOT_FOUND", "KEY_EXISTS", "KEY_FILE_REFUSED", "PASSPHRASE_MISSING", "PASSPHRASE_WRONG", "SIGNER_FAILED"),  # who signs
    *("TRUST_INVALID", "ADAPTER_FILE_INVALID", "FILE_NOT_READABLE", "SERVER_CONFIG_INVALID"),  # told before anything is served
    *("NOTE_INVALID", "LOG_REWRITTEN"),  # checkpoints
    *("BACKUP_EXISTS", "BACKUP_UNSOUND", "STORE_EXISTS", "STORE_IN_USE", "STORES_DIFFER"),  # backup, restore, migrate
    *("POSTGRES_DRIVER_MISSING", "OTEL_MISSING"),  # what is not installed, told before anything is served
}
"""Codes of sections about tools that no tool answers."""


def published() -> set[str]:
    """The codes of docs/errors.md, without those of the command line and of attestation, which tools have nothing to do with.

    And without those of runs and calls: after any of them the next step is `FAILED_RUN`.
    """
    sections = re.split(r"^## ", (DOCS / "errors.md").read_text(), flags=re.MULTILINE)
    kept = [text for text in sections if not text.startswith(("The command line", "Attestation", "Codes of runs"))]
    return {code for text in kept for code in re.findall(r"^\| `([A-Z_]+)` \|(?! command line)", text, re.MULTILINE)}


def test_every_published_code_that_a_tool_can_answer_has_a_next_step_and_no_other_has() -> None:
    assert len(published()) > 90
    assert set(ADVICE) == published() - NOT_OF_TOOLS, "say in nexus_attest/server/advice.py what to do next, or here that no tool tells it"
    assert published() >= NOT_OF_TOOLS


def test_a_next_step_is_whole_sentences_and_few() -> None:
    for text in {*ADVICE.values(), FAILED_RUN}:
        assert re.fullmatch(r"[A-Z].{5,140}\.", text), text


def test_tools_that_are_recommended_exist() -> None:
    known = {name for spec in TOOLS for name in (spec.short, canonical_name(spec.short))}
    words = {word for text in ADVICE.values() for word in re.findall(r"[Cc]all ((?:template\.)?[a-z_]+)", text)}
    assert words - {"again", "execute", "with", "it"} <= known
    assert words


@pytest.mark.parametrize("code", ["NONZERO_EXIT", "TIMEOUT", "CONNECTION_LOST", "TOOL_DEFINITION_CHANGED", "whatever a router says"])
def test_a_code_of_a_router_is_a_run_that_failed(code: str) -> None:
    assert next_step(code) == FAILED_RUN
    (block,) = failure(code, "it broke")["content"]
    assert block["text"] == f"{code}: it broke. {FAILED_RUN}"


@pytest.mark.parametrize("code", sorted(ADVICE))
def test_the_text_of_an_error_is_code_what_happened_and_what_to_do(code: str) -> None:
    (block,) = failure(code, "it is so")["content"]
    assert block["text"] == f"{code}: {FAULTS.get(code, 'it is so')}. {ADVICE[code]}"


def test_every_code_that_an_engine_tool_names_in_its_documentation_is_known() -> None:
    import nexus_control.tool

    tree = ast.parse(Path(nexus_control.tool.__file__).read_text())
    named = {
        code
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for code in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", (ast.get_docstring(node) or "").partition("Errors:")[2])
    }
    assert len(named) > 30
    assert named <= {*ADVICE, NexusError.code}
