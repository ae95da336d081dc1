"""The demonstration, in three acts: a key rotation under governance with its proof and a forgery, a sequel, a witness. All of it happens.

Every step uses the calls that users use, and checks that what it tells is what happened.
"""

import io
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from nexus_attest.cli.files import write_file
from nexus_attest.cli.narrator import Narrator
from nexus_attest.cli.output import document_text
from nexus_attest.cli.screen import Screen, checks_table
from nexus_attest.cli.sequel import Sequel
from nexus_attest.cli.session import Session
from nexus_attest.cli.stage import ADAPTER_ID, Stage, set_up
from nexus_attest.cli.told import AGENT, ALICE, BOB, done, refused, require
from nexus_attest.routers import RunEngine, load_adapters
from nexus_control.evidence import verify_document
from nexus_control.markdown import escape
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

__all__ = ["tell"]

_GOAL = "Rotate the signing key of the release pipeline"
_PLAN = """[{"intent": "new key, keep the old one", "tool": "keys", "method": "rotate", "args": {"path": "signing.key", "bits": 256}}]"""


def tell(session: Session, folder: Path) -> None:
    """Play the demonstration in `folder`. Raises Failure DEMO_FAILED when anything goes otherwise than told, FileRefused for the folder."""
    stage = set_up(folder)
    screen = Screen(io.StringIO()) if session.as_json else session.screen
    narrator = Narrator(screen)
    story = _Story(stage, narrator)
    with DecisionStore(stage.store) as store:
        tools = NexusControlTools(store)
        with RunEngine(load_adapters(stage.adapters), db_path=stage.runs) as router:
            facts = story.play(tools, router)
        facts |= Sequel(stage, narrator).play(tools)
    from nexus_attest.cli.testimony import Testimony  # the attestation side and xrpl-py: nobody waits for them before the story begins

    facts |= Testimony(stage, narrator).play(facts["binding_digest"])
    session.show(facts, lambda: story.close(facts))


class _Story:
    def __init__(self, stage: Stage, narrator: Narrator) -> None:
        self._stage = stage
        self._tell = narrator

    def play(self, tools: NexusControlTools, router: RunEngine) -> dict[str, Any]:
        """The first act, around the key; what happened, as JSON data."""
        self._tell.act("The key")
        self._tell.text(
            "An AI agent wants to rotate a signing key. Done wrongly that locks everybody out, so it must not happen just because a "
            "prompt said so. This is what happens instead, and all of it is real: the key, the program that rotates it and the evidence "
            f"are in {escape(self._stage.folder)}."
        )
        self._rules(tools)
        request_id = self._request(tools)
        self._too_early(tools, router, request_id)
        self._approvals(tools, request_id)
        first = self._stage.fingerprint()
        self._rehearsal(tools, router, request_id)
        run_id = self._the_real_thing(tools, router, request_id)
        digest, checks = self._proof(tools, router, request_id, run_id)
        failed = self._forgery()
        return {
            "folder": str(self._stage.folder),
            "request_id": request_id,
            "key_before": first,
            "key_after": self._stage.fingerprint(),
            "package": str(self._stage.package),
            "binding_digest": digest,
            "checks": checks,
            "forgery": str(self._stage.forgery),
            "forgery_failed": failed,
        }

    def _rules(self, tools: NexusControlTools) -> None:
        tell = self._tell
        tell.scene("The rules", "Alice, who answers for the keys, writes down once what a rotation needs.")
        made = done(tools.template_create("key-rotation", ALICE, "Rotation of production keys", 2, ["dry_run", "apply"], ["apply"], 1))
        tell.facts(
            ("template", "key-rotation"),
            ("needs", "2 approvals, an adapter that can apply, at most 1 step"),
            ("digest", f"sha256:{made['digest'][:16]}..."),
        )
        tell.why("A template never changes. Every decision carries the digest of the rules that it was made under.")

    def _request(self, tools: NexusControlTools) -> str:
        tell = self._tell
        tell.scene("The request", "The agent asks. It names the goal and the exact plan.")
        made = done(tools.request(_GOAL, AGENT, "apply", _PLAN, "key-rotation"))
        tell.facts(
            ("decision", made["request_id"]), ("goal", _GOAL), ("plan", "keys/rotate signing.key, 256 bits"), ("by", "system:release-agent")
        )
        tell.why("What people approve is this goal and this plan, to the letter. Nothing else can run under their approvals.")
        return made["request_id"]

    def _too_early(self, tools: NexusControlTools, router: RunEngine, request_id: str) -> None:
        tell = self._tell
        tell.scene("Too early", "The agent does not wait and tries to run it.")
        before = self._stage.fingerprint()
        told = refused(tools.execute(request_id, ADAPTER_ID, AGENT, router), "POLICY_VALIDATION_FAILED")
        reasons = done(tools.status(request_id))["blocking_reasons"]
        require([reason["code"] for reason in reasons] == ["MISSING_APPROVALS"], "another reason blocks the execution")
        require(self._stage.fingerprint() == before, "the refused execution changed the key")
        tell.bad("refused", escape(told))
        tell.facts(*(("blocked by", f"{reason['code']}: {reason['message']}") for reason in reasons), ("key", f"{before} untouched"))
        tell.why("The refusal comes before anything is started. The program that could rotate the key was never called.")

    def _approvals(self, tools: NexusControlTools, request_id: str) -> None:
        tell = self._tell
        tell.scene("Two people decide", "Alice and Bob read goal and plan, and approve.")
        one = done(tools.approve(request_id, ALICE, "Plan is the usual one"))
        two = done(tools.approve(request_id, BOB, "Old key is kept, good"))
        require(not one["is_approved"] and two["is_approved"], "one approval was enough, or two were not")
        tell.good("alice", "1 of 2: \u201cPlan is the usual one\u201d")
        tell.good("bob", "2 of 2: \u201cOld key is kept, good\u201d")
        tell.why("Approvals can expire and can be taken back. They count once per person, and only until they are used.")

    def _rehearsal(self, tools: NexusControlTools, router: RunEngine, request_id: str) -> None:
        tell = self._tell
        tell.scene("The rehearsal", "A dry run goes through everything except the program itself.")
        before = self._stage.fingerprint()
        ran = done(tools.execute(request_id, ADAPTER_ID, AGENT, router, dry_run=True))
        require(self._stage.fingerprint() == before, "the dry run changed the key")
        tell.good("dry run", f"{ran['steps_executed']} step, nothing started")
        tell.facts(("key", f"{before} unchanged"))

    def _the_real_thing(self, tools: NexusControlTools, router: RunEngine, request_id: str) -> str:
        tell = self._tell
        tell.scene("The real thing", "Now for real: keytool.py, a program that knows nothing of nexus-attest, rotates the key.")
        before = self._stage.fingerprint()
        ran = done(tools.execute(request_id, ADAPTER_ID, AGENT, router, dry_run=False))
        after = self._stage.fingerprint()
        require(after != before, "the key was not rotated")
        tell.good("executed", f"{ran['steps_executed']} step, run {ran['run_id']}")
        tell.facts(("key before", before), ("key after", f"{after} (the old one is kept in signing.key.1)"))
        again = refused(tools.execute(request_id, ADAPTER_ID, AGENT, router, dry_run=False), "ALREADY_EXECUTED")
        tell.bad("once more", escape(again))
        tell.why("An approval is good for one run. Of a thousand processes that try at the same moment, one gets through.")
        return ran["run_id"]

    def _proof(self, tools: NexusControlTools, router: RunEngine, request_id: str, run_id: str) -> tuple[str, list[str]]:
        tell = self._tell
        tell.scene("The proof", "Everything about it goes into one file that a stranger can check, offline, without asking anybody.")
        record = router.flight_record(run_id)
        package = done(tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record, render=False))
        write_file(self._stage.package, document_text(package["package"]).encode(), force=False)
        checks = verify_document(self._stage.package.read_bytes()).result.checks
        require(all(check.ok for check in checks) and len(checks) == 6, "the package does not verify")
        tell.facts(("file", escape(self._stage.package)), ("digest", package["digest"]))
        tell.show(checks_table(checks))
        tell.why("What was allowed, who allowed it, what ran, and that this run was the allowed one: each part is bound to the others.")
        return package["digest"], [check.name for check in checks]

    def _forgery(self) -> list[str]:
        tell = self._tell
        tell.scene("The forgery", "Somebody wants another name on it. They open a copy in an editor and turn bob into mallory.")
        text = self._stage.package.read_text(encoding="utf-8")
        write_file(self._stage.forgery, text.replace('"bob"', '"mallory"').encode(), force=False)
        checks = verify_document(self._stage.forgery.read_bytes()).result.checks
        failed = [check.name for check in checks if not check.ok]
        require(failed == ["control_bundle_digest"], f"the forgery fails {failed}")
        tell.facts(("file", escape(self._stage.forgery)))
        tell.show(checks_table(checks))
        tell.why(
            "One word was changed, and the check of that part fails by name. A better forger would recompute every digest in the file as "
            "well. That is why the digest of scene 7 belongs in a second place: a ticket, a ledger, a mail. --expect compares with it."
        )
        return failed

    def close(self, facts: dict[str, Any]) -> None:
        """What is left to look at, and what to try."""
        tell, stage, program = self._tell, self._stage, _invocation()
        tell.heading("What is left")
        tell.facts(
            ("signing.key", "the new key; signing.key.1 is the old one"),
            ("keytool.py", "the program that rotated it"),
            ("keyregistry.py", "the MCP server, as it was after its update; registry.json is what it published before"),
            ("adapters.toml", "the file that allows these two, and nothing else"),
            ("decisions.db", "every event; decisions.db.runs holds the records of the runs"),
            ("audit-package.json", "the proof"),
            ("forged-package.json", "the forgery"),
            ("attestation.json", "what alice signed about the proof"),
            ("witness-proof.json", "that a ledger (of this demonstration) has it, with forged-witness-proof.json beside it"),
            ("witness-trust.toml", "whom to believe about both"),
        )
        tell.heading("Try next")
        package, forgery, store = (shlex.quote(str(path)) for path in (stage.package, stage.forgery, stage.store))
        tell.command("Everything about the decision:", f"{program} inspect {facts['request_id']} --db {store}")
        tell.command(
            "The proof, compared with the digest of scene 7:",
            f"{program} verify {package} \\",
            f"    --expect {facts['binding_digest']}",
        )
        tell.command("The forgery; exit code 2:", f"{program} verify {forgery}")
        trust, attestation = (shlex.quote(str(path)) for path in (stage.witness_trust, stage.attestation))
        tell.command("What alice signed:", f"{program} attest verify {attestation} --package {package} --trust {trust}")
        witness, forged = (shlex.quote(str(path)) for path in (stage.witness_proof, stage.witness_forgery))
        tell.command("The proof of the witness:", f"{program} proof verify {witness} --package {package} --trust {trust}")
        tell.command("The same with one byte changed; exit code 2:", f"{program} proof verify {forged} --trust {trust}")
        tell.command("The store itself, every fact in it:", f"{program} log verify --db {store}")


def _invocation() -> str:
    """The shortest words that start this program again from here."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m nexus_attest"
    found = shutil.which(called.name)
    if found is not None and Path(found).resolve() == called.resolve():
        return called.name
    return shlex.quote(sys.argv[0])
