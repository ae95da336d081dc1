"""Whatever fails: no seed and no private key of the ledger is in an error, a log, an output, a database, a receipt or a narrative."""

import asyncio
import base64
import json
import logging
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from witness_testing import Crash, World, intent
from xrpl.constants import CryptoAlgorithm
from xrpl.core.addresscodec import decode_seed
from xrpl.core.keypairs import derive_keypair, generate_seed
from xrpl_testing import healthy, node

from nexus_attest.attestation.narrative import show_intent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.worker import process_one_xrpl, run_worker
from nexus_attest.attestation.xrpl import DclTransport, ExchangeStore, JsonRpcClient
from nexus_attest.attestation.xrpl.ledger_keys import ProgramKey, key_of_seed
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner
from nexus_attest.key_errors import KeyFileRefused, KeyInvalid, KeyNotFound, SignerFailed
from nexus_attest.testledger import seed_of

ED25519 = seed_of("secrets")
SECP256K1 = generate_seed(b"secrets of tests".hex(), CryptoAlgorithm.SECP256K1)
SEEDS = (ED25519, SECP256K1)
VARIABLE = "SEED_FOR_TESTS"
TESTS = str(Path(__file__).parent)


def needles(seed: str) -> list[bytes]:
    """The seed, ten characters of it in a row, its bytes and its private key, in whatever form they may be written."""
    entropy, _ = decode_seed(seed)
    private = bytes.fromhex(derive_keypair(seed)[1][2:])
    found = [seed[start : start + 10].encode() for start in range(len(seed) - 9)]
    for secret in (bytes(entropy), private):
        text = secret.hex().encode()
        found += [secret, text, text.upper(), base64.b64encode(secret)[:-4], repr(secret).encode()[2:-1], str(list(secret)).encode()]
        found.append(str(int.from_bytes(secret)).encode())
    return found


def pieces(text: str) -> list[bytes]:
    """Ten characters in a row of what was meant to be a seed."""
    return [text[start : start + 10].encode() for start in range(len(text) - 9)]


def told(problem: BaseException) -> Iterator[bytes]:
    """All that an error can be made to show, with the variables of every frame that is ours; and the same of what it hides."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [problem]
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        waiting += [error.__cause__, error.__context__]
        yield f"{error}{error!r}{error.args!r}{vars(error)!r}{getattr(error, '__notes__', '')}".encode()
        yield "".join(traceback.format_exception(error)).encode()
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if not frame.f_code.co_filename.startswith(TESTS):
                yield repr({name: _shown(value) for name, value in frame.f_locals.items()}).encode("utf-8", "backslashreplace")


def _shown(value: object) -> str:
    """As a debugger shows a variable, and one level into it."""
    inside = {name: repr(getattr(value, name, None)) for name in getattr(type(value), "__slots__", ()) if not name.startswith("_")}
    return f"{value!r} {vars(value) if hasattr(value, '__dict__') and not isinstance(value, type) else inside}"


def require_none(haystacks: Iterator[bytes], secrets: list[bytes]) -> None:
    text = b"\n".join(haystacks)
    assert [secret for secret in secrets if secret in text] == []


def stored(folder: Path) -> Iterator[bytes]:
    """Every file below a folder, those beside databases among them."""
    yield from (path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "seed")


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], Iterator[bytes]]]:
    """What was logged, by whomever and however little it matters, and what was printed."""
    caplog.set_level(logging.NOTSET)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield lambda: (text.encode() for text in (caplog.text, repr([vars(record) for record in caplog.records]), *capfd.readouterr()))
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_the_search_finds_what_it_looks_for() -> None:
    """In a variable of a frame, in an error that is hidden behind another one, and in every form of a key."""
    with pytest.raises(ValueError, match="Extra data") as caught:
        json.loads(f'"{ED25519}" x')
    assert any(needle in text for text in told(caught.value) for needle in needles(ED25519))
    hidden = KeyError("another")
    hidden.__context__ = ValueError(SECP256K1)
    assert any(needle in text for text in told(hidden) for needle in needles(SECP256K1))
    private = bytes.fromhex(derive_keypair(ED25519)[1][2:])
    for form in (private, private.hex().encode(), base64.b64encode(private), repr(private).encode(), str(list(private)).encode()):
        with pytest.raises(AssertionError):
            require_none(iter([b"before" + form + b"after"]), needles(ED25519))


# Seeds that cannot be read


BROKEN: dict[str, Callable[[str], str]] = {
    "a character changed": lambda seed: seed[:12] + ("X" if seed[12] != "X" else "Y") + seed[13:],
    "the last one missing": lambda seed: seed[:-1],
    "one more": lambda seed: seed + "r",
    "in quotes": lambda seed: f'"{seed}"',
    "in a file of variables": lambda seed: f"SEED={seed}",
    "twice": lambda seed: f"{seed}\n{seed}\n",
    "with a character that is none": lambda seed: f"{seed[:8]}é{seed[8:]}",
    "in small letters": str.lower,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_seed_that_cannot_be_read_is_not_repeated(
    seed: str, broken: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Callable[[], Iterator[bytes]]
) -> None:
    text = broken(seed)
    file = tmp_path / "seed"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    monkeypatch.setenv(VARIABLE, text)
    for source in (f"env:{VARIABLE}", str(file)):
        with pytest.raises(KeyInvalid) as caught:
            LocalWalletSigner.open(source)
        require_none(told(caught.value), [*needles(seed), *pieces(text)])
    with pytest.raises(KeyInvalid) as caught:
        key_of_seed(text)
    require_none(told(caught.value), [*needles(seed), *pieces(text)])
    require_none(quiet(), needles(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_that_is_refused_is_not_repeated(seed: str, tmp_path: Path) -> None:
    file, large, link = tmp_path / "seed", tmp_path / "large", tmp_path / "link"
    file.write_text(seed)
    large.write_text(seed * 100_000)
    large.chmod(0o600)
    link.symlink_to(file)
    for mode in (0o644, 0o640, 0o400, 0o700):
        file.chmod(mode)
        with pytest.raises(KeyFileRefused) as caught:
            LocalWalletSigner.open(str(file))
        require_none(told(caught.value), needles(seed))
    for path in (large, link, tmp_path, tmp_path / "nothing"):
        with pytest.raises((KeyFileRefused, KeyNotFound)) as refused:
            LocalWalletSigner.open(str(path))
        require_none(told(refused.value), needles(seed))


# Signing


TX = {"TransactionType": "AccountSet", "Sequence": 7, "Fee": "10", "LastLedgerSequence": 1000}
REFUSED: tuple[dict[str, Any], ...] = (
    {"Account": "rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh"},
    {"TxnSignature": "00"},
    {"Fee": None},
    {"Fee": 10.5},
    {"Fee": "-1"},
    {"Sequence": -1},
    {"NoSuchField": 1},
    {"Memos": [{"Memo": {"MemoData": "zz"}}]},
    {"Memos": [{"Memo": {"MemoData": "00" * 2000}}]},
    {"Memos": 7},
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("changes", REFUSED, ids=range(len(REFUSED)))
def test_a_transaction_that_is_not_signed_shows_nothing(seed: str, changes: dict[str, Any], quiet: Callable[[], Iterator[bytes]]) -> None:
    signer = LocalWalletSigner(key_of_seed(seed))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - whichever it is
        signer.sign({**TX, "Account": signer.account, **changes})
    require_none(told(caught.value), needles(seed))
    require_none(quiet(), needles(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_signer_whose_completion_fails_shows_nothing(seed: str) -> None:
    def complete(account: str) -> dict[str, Any]:
        raise ConnectionError(f"no server for {account}")

    signer = LocalWalletSigner(key_of_seed(seed), complete=complete)
    with pytest.raises(ConnectionError) as caught:
        signer.sign({"TransactionType": "AccountSet", "Account": signer.account})
    require_none(told(caught.value), needles(seed))
    for call in (signer.__reduce__, lambda: signer.__reduce_ex__(2)):
        with pytest.raises(TypeError) as pickled:
            call()
        require_none(told(pickled.value), needles(seed))


# Programs that hold the seed, and do not keep it


ANSWERS = {
    "the seed in place of an answer": "print(SEED)",
    "the seed and an error": "print(SEED); sys.exit(1)",
    "the seed in another member": 'print(json.dumps({"seed": SEED}))',
    "the seed beside the answer": 'print(json.dumps({"public_key": "AAAA", "seed": SEED}))',
    "the seed as a public key": 'print(json.dumps({"public_key": base64.b64encode(SEED.encode()).decode()}))',
    "the seed without end": "sys.stdout.write(SEED * 100_000)",
    "the seed, and no end": "print(SEED, flush=True); time.sleep(60)",
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_program_that_tells_its_secret_is_not_repeated(
    seed: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Callable[[], Iterator[bytes]]
) -> None:
    script = tmp_path / "sign.py"
    script.write_text(f"import base64, json, os, sys, time\nSEED = os.environ[{VARIABLE!r}]\n{answer}\n")
    monkeypatch.setenv(VARIABLE, seed)
    command = [sys.executable, "-S", str(script)]
    with pytest.raises(SignerFailed) as caught:
        ProgramKey(command, seconds=1.0)
    require_none(told(caught.value), needles(seed))
    if "sleep" not in answer:
        with pytest.raises(SignerFailed) as opened:
            LocalWalletSigner.open(f"program:{shlex.join(command)}")
        require_none(told(opened.value), needles(seed))
    require_none(quiet(), needles(seed))


# Batches and the worker, whatever the servers do


FAULTS = (
    *("drop_request", "drop_response", "timeout", "http503", "http500", "malformed", "truncated", "empty", "wrong_shape"),
    *("error:tooBusy", "error:invalidTransaction", "engine:temBAD_SIGNATURE", "engine:tecCLAIM", "engine:tefBAD_AUTH", "forge_validated"),
    *("engine:tefMASTER_DISABLED", "engine:telINSUF_FEE_P", "engine:terPRE_SEQ", "crash", "crash_after"),
)


@pytest.mark.parametrize("seed", SEEDS)
def test_batches_leave_no_secret_whatever_fails(seed: str, tmp_path: Path, quiet: Callable[[], Iterator[bytes]]) -> None:
    events = [event for fault in FAULTS for event in ("ok", "ok", fault, fault)]
    world = World(seed=seed, path=tmp_path / "queue.db", requests=events, max_members=1)
    worker, failures = world.worker(), 0
    for turn in range(70):
        world.queue.enqueue(intent(turn % 5))
        world.clock.advance(61)  # servers that failed are asked again
        try:
            world.cycle(worker, close=True)
        except (Exception, Crash) as problem:
            failures += 1
            require_none(told(problem), needles(seed))
            worker = world.worker()
        if world.progress.stopped is not None:
            require_none(iter([repr((worker.status(), world.progress)).encode()]), needles(seed))
            worker = world.worker()
        if turn % 10 == 0:
            require_none(stored(tmp_path), needles(seed))
    assert failures > len(FAULTS)
    assert world.sent()
    for place in range(5):
        report = show_intent(world.queue, "sha256:" + intent(place).intent_digest(), redact=False)
        require_none(iter([report.to_json().encode(), report.render().encode()]), needles(seed))
    assert (tmp_path / "queue.db-wal").stat().st_size > 0
    require_none(stored(tmp_path), needles(seed))
    world.queue.close()
    require_none(stored(tmp_path), needles(seed))
    require_none(quiet(), needles(seed))


class Answering:
    """A client whose answers a test says; an exception is raised."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def post_json(self, url: str, payload: dict[str, Any]) -> Any:
        del url, payload
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("seed", SEEDS)
def test_the_worker_leaves_no_secret_whatever_fails(seed: str, tmp_path: Path, quiet: Callable[[], Iterator[bytes]]) -> None:
    complete = {"Sequence": 7, "Fee": "10", "LastLedgerSequence": 1000}
    signers = [
        LocalWalletSigner(key_of_seed(seed), complete=lambda _: complete),
        LocalWalletSigner(key_of_seed(seed)),  # refuses: nobody completes
        LocalWalletSigner(key_of_seed(seed), complete=lambda _: {**complete, "Fee": "x"}),
    ]
    answers: list[object] = [
        TimeoutError("late"),
        ConnectionError("gone"),
        {},
        {"result": {"status": "error", "error": "tooBusy"}},
        {"result": {"engine_result": "temMALFORMED", "accepted": False, "status": "success"}},
        {"result": {"engine_result": "tesSUCCESS", "accepted": True, "tx_json": {"hash": "AB"}, "status": "success"}},
    ]
    with AttestationQueue(tmp_path / "queue.db") as queue:
        for number, (signer, answer) in enumerate((signer, answer) for signer in signers for answer in answers):
            item = intent(number)
            queue.enqueue(item)
            client = JsonRpcClient("http://127.0.0.1:1/", Answering(answer))
            result = asyncio.run(process_one_xrpl(queue, client, signer, intent_digest="sha256:" + item.intent_digest()))
            assert result.receipts
            require_none(iter([repr(result).encode()]), needles(seed))
            report = show_intent(queue, "sha256:" + item.intent_digest(), redact=False)
            require_none(iter([report.to_json().encode()]), needles(seed))
        require_none(stored(tmp_path), needles(seed))
    require_none(quiet(), needles(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_exchanges_over_http_hold_no_secret(seed: str, tmp_path: Path, quiet: Callable[[], Iterator[bytes]]) -> None:
    complete = {"Sequence": 7, "Fee": "10", "LastLedgerSequence": 1000}
    signer = LocalWalletSigner(key_of_seed(seed), complete=lambda _: complete)

    def answer(request: dict[str, Any]) -> tuple[int, object]:
        return (500, {"request": request}) if request["method"] == "tx" else healthy(request)

    with node(answer) as url, ExchangeStore(tmp_path / "e.db", tmp_path / "bodies") as store, AttestationQueue(tmp_path / "q.db") as queue:
        queue.enqueue(intent(1))
        client = JsonRpcClient(url, DclTransport(store=store, store_bodies=True))
        asyncio.run(run_worker(queue, client, signer, interval=0, max_cycles=2))
        assert store.count() > 0
        require_none(stored(tmp_path), needles(seed))
    require_none(quiet(), needles(seed))
