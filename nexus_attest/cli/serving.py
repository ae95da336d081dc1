"""What `serve` puts together: store, router, service, transport."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from nexus_attest.cli import settings
from nexus_attest.cli.errors import ConfigError
from nexus_attest.cli.identity import IdentityOptions
from nexus_attest.cli.running import new_runs_path
from nexus_attest.cli.session import Session
from nexus_attest.routers import RunEngine, load_adapters
from nexus_attest.server.app import build_server
from nexus_attest.server.errors import ServerConfigError
from nexus_attest.server.health import health_routes
from nexus_attest.server.http import http_app, listen, parse_address, serve_app, serve_http
from nexus_attest.server.lifecycle import run_until_signal
from nexus_attest.server.logs import StderrLog
from nexus_attest.server.names import NameStyle
from nexus_attest.server.page import ApprovalPage
from nexus_attest.server.progress import follow_run
from nexus_attest.server.service import Service, ServiceOptions
from nexus_attest.server.stdio import serve_stdio
from nexus_control.flight_record import RunEvent

if TYPE_CHECKING:
    from nexus_attest.cli.observing import Observer

__all__ = ["serve"]

_log = logging.getLogger("nexus_attest.server")

_PATIENCE_SECONDS = 0.02
"""So long the end of the server waits for a collector."""


def serve(
    session: Session,
    *,
    http: str | None,
    adapters: Path | None,
    runs: Path | None,
    tool_names: NameStyle,
    tools: frozenset[str] | None,
    extra_tools: bool,
    read_only: bool,
    log_level: str,
    identity: IdentityOptions,
) -> None:
    """Serve until the client leaves or a signal comes. Raises before anything is served when an option is wrong."""
    options = ServiceOptions(tool_names=tool_names, extra_tools=extra_tools, read_only=read_only, tools=tools)
    if unknown := options.unknown():
        raise ServerConfigError(f"there is no tool {', '.join(unknown)}")
    if not options.selected():
        raise ServerConfigError("these options leave no tool to offer")
    address = None if http is None else parse_address(http)
    access = identity.access(address)
    source = identity.source(session, address, access)
    with ExitStack() as opened:
        service = _service(session, opened, adapters, runs, options)
        log = StderrLog()
        log.install(log_level)
        service.actors, service.needs_token, service.takes_signatures = source, access is not None, session.trust is not None
        service.tools = identity.tools(session, source)
        service.task_folder = _task_folder(session, options)
        page = identity.ask_people(session, service, address, opened)
        server = build_server(service)
        transport: Callable[[], Awaitable[None]] = partial(serve_stdio, server)
        if address is not None:
            app = http_app(server, address, access)
            app.router.routes.extend(health_routes(partial(session.store.decision_page, 1, 0)))
            transport = partial(serve_http, app, opened.enter_context(listen(address)), address)
        if page is not None:
            transport = partial(_beside, page, transport)
        run_until_signal(service, transport, log, opened.close)


async def _beside(page: ApprovalPage, transport: Callable[[], Awaitable[None]]) -> None:
    """Serve the page for as long as the transport has clients."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_app, page.app, page.listener)
        await transport()
        tasks.cancel_scope.cancel()


def _service(session: Session, opened: ExitStack, adapters: Path | None, runs: Path | None, options: ServiceOptions) -> Service:
    if options.read_only:
        session.never_write()
    else:
        session.allow_new_store()
        session.keep_open()
    opened.callback(session.store.close)
    watching = session.observer
    if watching is not None:
        watching.logs_calls = False
        opened.callback(watching.close, _PATIENCE_SECONDS)
    path = settings.adapters_path(adapters)
    if path is None or options.read_only:
        return Service(tools=session.tools, options=options)
    known = load_adapters(path)
    router = opened.enter_context(RunEngine(known, db_path=new_runs_path(session, runs), watch=partial(_watch, watching)))
    session.tools.flight_records = router
    return Service(
        tools=session.tools,
        router=router,
        adapters=tuple(adapter.adapter_id for adapter in known),
        stop_runs=router.stop,
        options=options,
    )


def _task_folder(session: Session, options: ServiceOptions) -> Path | None:
    """The folder of the tasks: the store's name with `.tasks` after it, the same however the store was named.

    A server that changes nothing makes none, and one whose store is elsewhere does without where this machine keeps nothing for it.
    """
    if options.read_only:
        return None
    try:
        session.make_local_folder()
    except (OSError, ConfigError) as problem:
        _log.warning("tasks cannot be kept", extra={"facts": {"problem": str(problem)}})
        return None
    path = session.store_path.resolve()
    return path.with_name(path.name + ".tasks")


def _watch(watching: "Observer | None", event: RunEvent) -> None:
    follow_run(event)
    if watching is not None:
        watching.watch(event)
