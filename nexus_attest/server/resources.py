"""Lists and contents of the resources of `nexus_attest.server.documents`."""

import anyio.to_thread
from mcp import MCPError
from mcp.types import (
    INVALID_PARAMS,
    Annotations,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from nexus_attest.server.documents import JSON, KINDS, parse_uri
from nexus_attest.server.paging import PAGE_SIZE, cursor_at, offset_of, page_of
from nexus_attest.server.results import protocol_error, safe_text
from nexus_attest.server.service import Service
from nexus_control.errors import NexusError

__all__ = ["list_resources", "list_templates", "read_resource"]

_SHOWN_GOAL = 100


async def list_resources(service: Service, cursor: str | None) -> ListResourcesResult:
    """The decisions, newest first. What belongs to one, and the policy templates, are found through the URI templates."""
    start = offset_of("resources", cursor)
    found = await anyio.to_thread.run_sync(service.tools.list_requests, PAGE_SIZE + 1, start, limiter=service.store_threads)
    if not found.success:
        raise protocol_error(found.code or NexusError.code, found.error or "")
    entries = found.data["requests"]
    kind = KINDS["decision"]
    resources = [
        Resource(
            uri=kind.uri(entry["request_id"]),
            name=entry["request_id"],
            title=safe_text(str(entry["goal"] or "")[:_SHOWN_GOAL]) or None,
            description=f"Decision, {entry['state']}",
            mime_type=JSON,
            annotations=Annotations(last_modified=None, audience=["user", "assistant"]),
        )
        for entry in entries[:PAGE_SIZE]
    ]
    return ListResourcesResult(
        resources=resources, next_cursor=cursor_at("resources", start + PAGE_SIZE) if len(entries) > PAGE_SIZE else None
    )


def list_templates(cursor: str | None) -> ListResourceTemplatesResult:
    """The URI templates of everything that can be read."""
    kinds, following = page_of(list(KINDS.values()), "templates", cursor)
    templates = [
        ResourceTemplate(uri_template=kind.template, name=kind.name, title=kind.title, description=kind.description, mime_type=JSON)
        for kind in kinds
    ]
    return ListResourceTemplatesResult(resource_templates=templates, next_cursor=following)


async def read_resource(service: Service, uri: str) -> ReadResourceResult:
    """The text of one resource. Raises MCPError -32602 for one that does not exist, or that the decision does not have yet.

    And -32603 when the store cannot be read.
    """
    found = parse_uri(uri)
    if found is None:
        raise MCPError(INVALID_PARAMS, f"Unknown resource: {safe_text(uri)[:200]}", {"uri": safe_text(uri)})
    kind, value = found
    try:
        text = await anyio.to_thread.run_sync(kind.read, service.tools, value, limiter=service.store_threads)
    except NexusError as error:
        raise protocol_error(error.code, error.describe(), uri=safe_text(uri)) from None
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=JSON, text=text)])
