"""The FlexiFlow handler and its states, with a node over HTTP and the YAML of the documentation."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from xrpl_testing import Ledger, Signer, healthy, intent, node

from nexus_attest.attestation import flexiflow_adapter, flexiflow_states
from nexus_attest.attestation.errors import SignerMissing
from nexus_attest.attestation.flexiflow_adapter import SignerFactory, attest_xrpl_process_one, configure_signer
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.worker import ProcessResult
from nexus_attest.attestation.xrpl.client import SubmitResult, TxStatusResult
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
from nexus_control.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
YAML = ROOT / "examples" / "flexiflow" / "attestation.yaml"
STATES = ("AttestIdle", "AttestConfirmed", "AttestFailed", "AttestDeferred")


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flexiflow_adapter, "_signer_factory", None)
    monkeypatch.setattr(flexiflow_states, "_settings", {})
    for name in ("NEXUS_ATTEST_DB", "XRPL_URL"):
        monkeypatch.delenv(name, raising=False)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def queued(path: Path, *digits: str) -> list[str]:
    with AttestationQueue(path) as queue:
        return [queue.enqueue(intent(digit)) for digit in digits]


# -- the handler ---------------------------------------------------------------------------------------------------------------------


def test_without_a_signer_nothing_is_touched(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="configure_signer") as missing:
        run(attest_xrpl_process_one({"db_path": str(tmp_path / "q.db")}))
    assert isinstance(missing.value, SignerMissing)
    assert list(tmp_path.iterdir()) == []


def test_a_class_is_a_signer_factory_and_the_last_one_counts(tmp_path: Path) -> None:
    assert isinstance(Signer, SignerFactory)

    class Other(Signer):
        account = "rOther"

    queued(tmp_path / "q.db", "a")
    configure_signer(Signer)
    configure_signer(Other)
    ledger = Ledger()
    result = run(attest_xrpl_process_one({"db_path": str(tmp_path / "q.db"), "client": ledger}))
    assert result["outcome"] == "CONFIRMED"
    with AttestationQueue(tmp_path / "q.db") as queue:
        assert queue.replay(result["queue_id"])[1].proof["account"] == "rOther"


def test_an_intent_is_witnessed_over_http_with_a_record_of_the_exchanges(tmp_path: Path) -> None:
    (queue_id,) = queued(tmp_path / "q.db", "a")
    configure_signer(Signer)
    with node(healthy) as url:
        ctx = {
            "db_path": str(tmp_path / "q.db"),
            "xrpl_url": url,
            "use_dcl": True,
            "exchange_store_path": str(tmp_path / "x.db"),
            "exchange_body_path": str(tmp_path / "bodies"),
            "store_bodies": True,
        }
        result = run(attest_xrpl_process_one(ctx))
        assert run(attest_xrpl_process_one(ctx)) == {
            "outcome": "NOOP",
            "processed": False,
            "queue_id": None,
            "intent_digest": None,
            "receipts": [],
        }
    assert {key: result[key] for key in ("outcome", "processed", "queue_id", "intent_digest")} == {
        "outcome": "CONFIRMED",
        "processed": True,
        "queue_id": queue_id,
        "intent_digest": queue_id,
    }
    assert [set(receipt) for receipt in result["receipts"]] == [
        {"status", "attempt", "created_at", "backend", "has_proof", "has_error", "error_code"}
    ] * 2
    assert [receipt["status"] for receipt in result["receipts"]] == ["SUBMITTED", "CONFIRMED"]
    with AttestationQueue(tmp_path / "q.db") as queue, ExchangeStore(tmp_path / "x.db", tmp_path / "bodies") as store:
        evidence = [receipt.evidence_digests for receipt in queue.replay(queue_id)]
        assert store.count() == 2
        for digest in (evidence[0]["xrpl.submit.exchange"], evidence[1]["xrpl.tx.exchange"]):
            record = store.get(digest)
            assert record is not None
            assert store.verify_body(record.request_digest)
            assert store.verify_body(record.response_digest)


def test_an_unreachable_node_is_a_failed_receipt_and_the_intent_waits(tmp_path: Path) -> None:
    (queue_id,) = queued(tmp_path / "q.db", "a")
    ctx = {"db_path": str(tmp_path / "q.db"), "xrpl_url": "http://127.0.0.1:9", "signer": Signer()}
    result = run(attest_xrpl_process_one(ctx))
    assert (result["outcome"], result["receipts"][0]["error_code"]) == ("FAILED", "BACKEND_UNAVAILABLE")
    with AttestationQueue(tmp_path / "q.db") as queue:
        assert [item.queue_id for item in queue.next_pending()] == [queue_id]


def test_an_unknown_intent_is_called_unknown(tmp_path: Path) -> None:
    queued(tmp_path / "q.db", "a")
    ctx = {"db_path": str(tmp_path / "q.db"), "intent_digest": "sha256:" + "0" * 64, "signer": Signer(), "client": Ledger()}
    result = run(attest_xrpl_process_one(ctx))
    assert (result["outcome"], result["reason"]) == ("NOOP", "unknown")


def test_defaults_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queued(tmp_path / "env.db", "a")
    with node(healthy) as url:
        monkeypatch.setenv("NEXUS_ATTEST_DB", str(tmp_path / "env.db"))
        monkeypatch.setenv("XRPL_URL", url)
        assert run(attest_xrpl_process_one({"signer": Signer()}))["outcome"] == "CONFIRMED"
    monkeypatch.delenv("NEXUS_ATTEST_DB")
    monkeypatch.chdir(tmp_path)
    assert run(attest_xrpl_process_one({"signer": Signer()}))["outcome"] == "NOOP"
    assert (tmp_path / "attest.db").exists()


def test_the_worker_is_looked_up_at_each_call_and_called_by_keywords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    async def fake(**given: Any) -> ProcessResult:
        seen.append(given)
        return ProcessResult(True, "q", "q")

    monkeypatch.setattr(flexiflow_adapter, "process_one_xrpl", fake)
    signer = Signer()
    result = run(
        attest_xrpl_process_one({"db_path": str(tmp_path / "q.db"), "signer": signer, "account": "rX", "intent_digest": "sha256:x"})
    )
    assert (result["outcome"], result["receipts"]) == ("DEFERRED", [])
    assert set(seen[0]) == {"queue", "client", "signer", "account", "intent_digest"}
    assert (seen[0]["signer"], seen[0]["account"], seen[0]["intent_digest"]) == (signer, "rX", "sha256:x")


def test_paths_may_be_paths(tmp_path: Path) -> None:
    configure_signer(Signer)
    path = tmp_path / "q.db"
    with AttestationQueue(path) as queue:
        queue.enqueue(intent())
    result = run(attest_xrpl_process_one({"db_path": path, "client": Ledger(), "exchange_store_path": tmp_path / "e.db"}))
    assert result["outcome"] == "CONFIRMED"


WRONG: list[Any] = [None, [], {"db_path": 7}, {"use_dcl": "yes"}, {"store_bodies": 1}, {"account": b"r"}, {"intent_digest": "\ud800"}]


@pytest.mark.parametrize("ctx", WRONG)
def test_wrong_types_are_named_errors(ctx: Any) -> None:
    configure_signer(Signer)
    with pytest.raises(InputError):
        run(attest_xrpl_process_one(ctx))


# -- the states ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def flexiflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, with states that were made from it."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "flexiflow_standin"))  # pyright: ignore[reportUnknownMemberType]

    def forget() -> None:
        for name in STATES:
            flexiflow_states.__dict__.pop(name, None)
        for name in [name for name in sys.modules if name.partition(".")[0] == "flexiflow"]:
            del sys.modules[name]

    forget()
    yield import_module("flexiflow")
    forget()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {"db_path": str(tmp_path / "q.db"), "signer": Signer(), "client": Ledger()}


def sent(component: Any, *messages: dict[str, Any]) -> list[str]:
    """The states after each of the messages."""

    async def send() -> list[str]:
        names: list[str] = []
        for message in messages:
            await component.handle_message(message)
            names.append(type(component.state_machine.current_state).__name__)
        return names

    return run(send())


PROCESS = {"type": "attest.process"}


def test_the_example_is_the_one_of_the_documentation_and_loads(flexiflow: Any) -> None:
    text = (ROOT / "docs" / "flexiflow.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert yaml.safe_load(documented) == yaml.safe_load(YAML.read_text(encoding="utf-8"))
    component = flexiflow.load_component(YAML)
    assert isinstance(component.state_machine.current_state, flexiflow.State)


def test_a_component_drains_the_queue_and_says_so_on_the_bus(flexiflow: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    ids = queued(tmp_path / "q.db", "a", "b")
    flexiflow_states.configure_attestation(settings)
    engine, seen = flexiflow.FlexiFlowEngine(), list[dict[str, Any]]()

    async def note(data: dict[str, Any]) -> None:
        seen.append(data)

    component = flexiflow.load_component(YAML)
    run(engine.register_async(component))
    run(engine.event_bus.subscribe("attestation.processed", "test", note))
    names = sent(component, {"type": "other"}, PROCESS, PROCESS, PROCESS, {"type": "reset"}, {"type": "reset"})
    assert names == ["AttestIdle", "AttestConfirmed", "AttestConfirmed", "AttestConfirmed", "AttestIdle", "AttestIdle"]
    assert [data["outcome"] for data in seen] == ["CONFIRMED", "CONFIRMED", "NOOP"]
    assert sorted(data["queue_id"] for data in seen[:2]) == sorted(ids)
    assert {data["component"] for data in seen} == {"attestation"}
    assert component.attestation_result == {key: value for key, value in seen[-1].items() if key != "component"}


def refused(ledger: Any) -> None:
    ledger.submitted = SubmitResult(False, engine_result="temMALFORMED")


def pending(ledger: Any) -> None:
    ledger.found = TxStatusResult(False)


@pytest.mark.parametrize(("change", "state"), [(refused, "AttestFailed"), (pending, "AttestDeferred")])
def test_the_state_is_named_after_the_outcome(
    flexiflow: Any, tmp_path: Path, settings: dict[str, Any], change: Callable[[Any], None], state: str
) -> None:
    queued(tmp_path / "q.db", "a")
    change(settings["client"])
    flexiflow_states.configure_attestation(settings)
    component = flexiflow.load_component(YAML)
    assert sent(component, PROCESS, {"type": "reset"}) == [state, "AttestIdle"]


def test_an_exception_passes_to_the_sender_and_the_state_is_kept(flexiflow: Any, tmp_path: Path) -> None:
    flexiflow_states.configure_attestation({"db_path": str(tmp_path / "q.db")})
    component = flexiflow.load_component(YAML)
    with pytest.raises(SignerMissing):
        sent(component, PROCESS)
    assert type(component.state_machine.current_state).__name__ == "AttestIdle"


def test_a_message_may_name_the_intent_but_neither_the_signer_nor_what_is_settled(
    flexiflow: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    first, second = sorted(queued(tmp_path / "q.db", "a", "b"))
    flexiflow_states.configure_attestation(settings)
    component = flexiflow.load_component(YAML)
    content = {"intent_digest": second, "db_path": str(tmp_path / "evil.db"), "signer": "me", "client": "mine"}
    assert sent(component, {**PROCESS, "content": content}) == ["AttestConfirmed"]
    assert component.attestation_result["queue_id"] == second != first
    assert not (tmp_path / "evil.db").exists()
    assert sent(component, {**PROCESS, "content": "text of the command line"}) == ["AttestConfirmed"]
    assert component.attestation_result["queue_id"] == first


def test_states_are_found_again_by_their_names(flexiflow: Any) -> None:
    for name in STATES:
        made = getattr(flexiflow_states, name)
        assert made is getattr(flexiflow_states, name)
        assert (made.__name__, made.__module__) == (name, flexiflow_states.__name__)
        assert issubclass(made, flexiflow.State)
        assert made.__doc__


def test_without_flexiflow_everything_imports_and_the_states_work() -> None:
    code = """
import asyncio, sys
sys.modules["flexiflow"] = None
from nexus_attest.attestation import flexiflow_adapter, flexiflow_states
from nexus_attest.attestation.flexiflow_states import AttestIdle
state = AttestIdle()
assert asyncio.run(state.handle_message({"type": "other"}, None)) == (False, state)
assert not hasattr(flexiflow_states, "AttestNothing")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_the_states_does_not_import_flexiflow() -> None:
    code = "import nexus_attest.attestation.flexiflow_states, sys; sys.exit('flexiflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{ROOT}/tests/flexiflow_standin"})
