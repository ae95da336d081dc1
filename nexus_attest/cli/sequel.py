"""The second act of the demonstration: the new key is published through somebody's MCP server, which then changes under our hands."""

import hashlib
import json
import time
from typing import Any

from nexus_attest.cli.narrator import Narrator
from nexus_attest.cli.stage import SERVER_ID, Stage
from nexus_attest.cli.told import AGENT, ALICE, BOB, done, refused, require
from nexus_attest.routers import CallLimit, McpAdapter, RunEngine, load_adapters
from nexus_control.markdown import escape
from nexus_control.tool import NexusControlTools

__all__ = ["Sequel"]

_NAME = "release.example"
_SURVEY_SECONDS = 30.0


class Sequel:
    """Plays on the stage that the first act left."""

    def __init__(self, stage: Stage, narrator: Narrator) -> None:
        self._stage = stage
        self._tell = narrator

    def play(self, tools: NexusControlTools) -> dict[str, Any]:
        """Three scenes; what happened, as JSON data."""
        self._tell.act("The registry")
        digest = self._pin()
        published = self._publish(tools)
        code = self._changed(tools)
        return {"tools_digest": digest, "published": published, "changed_server": code}

    def _pin(self) -> str:
        tell = self._tell
        tell.scene(
            "Somebody else's server", "The new key is worth something once others know it. A registry of keys takes it: an MCP server."
        )
        server = next(adapter for adapter in load_adapters(self._stage.adapters) if isinstance(adapter, McpAdapter))
        survey = server.survey(CallLimit(time.monotonic() + _SURVEY_SECONDS))
        digest = str(survey.details["tools_digest"])
        require(sorted(survey.definitions) == ["lookup", "publish"], "the server offers other tools")
        self._stage.pin(digest)
        tell.facts(
            ("server", f"{survey.details['server']} {survey.details['version']}, MCP {survey.details['protocol']}"),
            ("tools", ", ".join(sorted(survey.definitions))),
            ("pinned", f"{digest[:23]}..."),
        )
        tell.why(
            "Alice has read what the tools say about themselves, and adapters.toml now holds the digest of it. Other tools are not called."
        )
        return digest

    def _publish(self, tools: NexusControlTools) -> str:
        tell = self._tell
        tell.scene("The publication", "Same rules: the agent asks, two people approve, one call is made.")
        fingerprint = f"sha256:{hashlib.sha256(self._stage.key.read_bytes()).hexdigest()}"
        request_id = self._approved(tools, fingerprint)
        with RunEngine(load_adapters(self._stage.adapters), db_path=self._stage.runs) as router:
            ran = done(tools.execute(request_id, SERVER_ID, AGENT, router, dry_run=False))
        entry = json.loads(self._stage.registry.read_text(encoding="utf-8"))[_NAME]
        require(entry == {"name": _NAME, "fingerprint": fingerprint, "revision": 1}, "the registry holds something else")
        tell.good("published", f"{_NAME}: {fingerprint[:23]}..., run {ran['run_id']}")
        tell.facts(("registry", escape(self._stage.registry)))
        tell.why(
            "The server ran for this one run, with no variable of ours, and could ask nobody anything. It knows nothing of nexus-attest."
        )
        return entry["fingerprint"]

    def _changed(self, tools: NexusControlTools) -> str:
        tell = self._tell
        tell.scene("The changed tool", "Overnight the server is updated. Its tool now tells every model to read the private key first.")
        self._stage.poison()
        before = self._stage.registry.read_bytes()
        request_id = self._approved(tools, "sha256:" + "0" * 64)
        with RunEngine(load_adapters(self._stage.adapters), db_path=self._stage.runs) as router:
            told = refused(tools.execute(request_id, SERVER_ID, AGENT, router, dry_run=False), "TOOL_DEFINITION_CHANGED")
        require(self._stage.registry.read_bytes() == before, "the changed tool was called")
        tell.bad("refused", escape(told))
        tell.facts(("registry", "untouched: no tool was called"))
        tell.why("Approved is what people have read. A server that says something else today is another server.")
        return "TOOL_DEFINITION_CHANGED"

    def _approved(self, tools: NexusControlTools, fingerprint: str) -> str:
        """A decision to publish a fingerprint, with both approvals."""
        step = {"tool": "registry", "method": "publish", "args": {"name": _NAME, "fingerprint": fingerprint}}
        made = done(tools.request(f"Publish the new key of {_NAME}", AGENT, "apply", json.dumps([step]), "key-rotation"))
        done(tools.approve(made["request_id"], ALICE))
        require(done(tools.approve(made["request_id"], BOB))["is_approved"], "two approvals were not enough")
        return made["request_id"]
