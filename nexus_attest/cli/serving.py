"""What `serve` puts together: store, router, service, transport."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from nexus_attest.cli import settings
from nexus_attest.cli.identity import IdentityOptions
from nexus_attest.cli.running import runs_path
from nexus_attest.cli.session import Session
from nexus_attest.routers import RunEngine, load_adapters
from nexus_attest.server.app import build_server
from nexus_attest.server.errors import ServerConfigError
from nexus_attest.server.http import http_app, listen, parse_address, serve_http
from nexus_attest.server.lifecycle import run_until_signal
from nexus_attest.server.logs import StderrLog
from nexus_attest.server.names import NameStyle
from nexus_attest.server.progress import follow_run
from nexus_attest.server.service import Service, ServiceOptions
from nexus_attest.server.stdio import serve_stdio
from nexus_control.tool import NexusControlTools

__all__ = ["serve"]


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
        service.actors, service.needs_token, service.takes_signatures = source, access is not None, session.trust is not None
        service.tools = identity.tools(session, source)
        identity.ask_people(session, service, address)
        server = build_server(service)
        transport: Callable[[], Awaitable[None]] = partial(serve_stdio, server)
        if address is not None:
            app = http_app(server, address, access)
            transport = partial(serve_http, app, opened.enter_context(listen(address)), address)
        log = StderrLog()
        log.install(log_level)
        run_until_signal(service, transport, log, opened.close)


def _service(session: Session, opened: ExitStack, adapters: Path | None, runs: Path | None, options: ServiceOptions) -> Service:
    if not options.read_only:
        session.allow_new_store()
    opened.callback(session.store.close)
    path = settings.adapters_path(adapters)
    if path is None or options.read_only:
        return Service(tools=session.tools, options=options)
    known = load_adapters(path)
    router = opened.enter_context(RunEngine(known, db_path=runs_path(session, runs), watch=follow_run))
    return Service(
        tools=NexusControlTools(session.store, trust=session.trust, flight_records=router),
        router=router,
        adapters=tuple(adapter.adapter_id for adapter in known),
        stop_runs=router.stop,
        options=options,
    )
