"""Completion of ids and template names, for hosts that offer them while somebody types."""

from collections.abc import Iterator

import anyio.to_thread
from mcp import MCPError
from mcp.types import INVALID_PARAMS, Completion, CompletionArgument, PromptReference, ResourceTemplateReference

from nexus_attest.server.documents import KINDS
from nexus_attest.server.prompts import PROMPTS
from nexus_attest.server.results import protocol_error, safe_text
from nexus_attest.server.service import Service
from nexus_control.errors import NexusError
from nexus_control.tool import NexusControlTools

__all__ = ["complete"]

_SHOWN = 100
"""The protocol allows no more."""

_SEARCHED = 1_000
"""So many of the newest decisions and templates are offered; older ones can still be typed."""


async def complete(service: Service, reference: PromptReference | ResourceTemplateReference, argument: CompletionArgument) -> Completion:
    """Values that begin with what was typed, newest first.

    Raises MCPError -32602 for a prompt or template that does not exist, -32603 when the store cannot be read.
    """
    names = _candidates_of(reference, argument.name)
    if names is None:
        return Completion(values=[], total=0, has_more=False)
    typed = argument.value

    def search() -> list[str]:
        return [name for name in names(service.tools) if name.startswith(typed)]

    try:
        found = await anyio.to_thread.run_sync(search, limiter=service.store_threads)
    except NexusError as error:
        raise protocol_error(error.code, error.describe()) from None
    return Completion(values=found[:_SHOWN], total=len(found), has_more=len(found) > _SHOWN)


def _candidates_of(reference: PromptReference | ResourceTemplateReference, argument: str):
    if isinstance(reference, PromptReference):
        if reference.name not in PROMPTS:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {safe_text(reference.name)[:200]}")
        return _decision_ids if argument == "request_id" else None
    for kind in KINDS.values():
        if kind.template == reference.uri:
            if argument != kind.variable:
                return None
            return _template_names if argument == "name" else _decision_ids
    raise MCPError(INVALID_PARAMS, f"Unknown resource template: {safe_text(reference.uri)[:200]}")


def _decision_ids(tools: NexusControlTools) -> Iterator[str]:
    return (decision_id for decision_id, _ in tools.store.decision_page(_SEARCHED, 0))


def _template_names(tools: NexusControlTools) -> Iterator[str]:
    return (template.name for template in tools.template_store.list_templates(_SEARCHED, 0))
