"""Signed notes and checkpoints: one text per value, everything else refused. Published vectors are in tests/conformance."""

import base64
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from checkpoint_testing import KEY, ORIGIN, WITNESS, check, cosignature, fake_signature, signer
from hypothesis import given
from hypothesis import strategies as st

from nexus_control.checkpoint import (
    ALGORITHM_COSIGNATURE,
    MAX_NOTE_BYTES,
    Checkpoint,
    NoteKey,
    NoteSignature,
    SignedNote,
    Witnessed,
    check_note,
    parse_checkpoint,
    parse_note,
    parse_note_key,
    sign_note,
)
from nexus_control.errors import MalformedNote
from nexus_control.merkle import empty_root

ROOT = sha256(b"root").digest()
CHECKPOINT = Checkpoint(ORIGIN, 7, ROOT)

NOTE = sign_note(CHECKPOINT.text(), KEY, signer(KEY))
COSIGNED = NOTE.with_signatures([cosignature(NOTE, WITNESS, 1_700_000_000)])


def line(name: str = ORIGIN, data: bytes = b"idid" + b"s" * 64) -> str:
    return f"\u2014 {name} {base64.b64encode(data).decode()}\n"


def test_checkpoint_is_written_as_specified() -> None:
    signature = base64.b64encode(KEY.key_id + fake_signature(KEY.public_key, CHECKPOINT.text().encode())).decode()
    assert NOTE.render() == f"example.org/log\n7\n{base64.b64encode(ROOT).decode()}\n\n\u2014 example.org/log {signature}\n"


def test_checkpoint_comes_back_as_it_was_written() -> None:
    for form in (COSIGNED.render(), COSIGNED.render().encode()):
        assert parse_note(form) == COSIGNED
        assert parse_checkpoint(parse_note(form)) == CHECKPOINT


def test_extensions_are_carried() -> None:
    checkpoint = Checkpoint(ORIGIN, 0, empty_root(), ("one", "two\u00e9"))
    assert checkpoint.text().endswith("=\none\ntwo\u00e9\n")
    assert parse_checkpoint(SignedNote(checkpoint.text(), ())) == checkpoint


def test_verifier_key_is_name_id_and_key() -> None:
    assert KEY.key_id == sha256(b"example.org/log\n\x01" + b"k" * 32).digest()[:4]
    assert KEY.text() == "example.org/log+" + KEY.key_id.hex() + "+" + base64.b64encode(b"\x01" + b"k" * 32).decode()
    for key in (KEY, WITNESS):
        assert parse_note_key(key.text()) == key
    assert KEY.key_id != NoteKey(ORIGIN, b"k" * 32, ALGORITHM_COSIGNATURE).key_id


def test_signatures_of_known_keys_are_checked_and_others_say_nothing() -> None:
    assert check_note(COSIGNED, [KEY, WITNESS], check) == [Witnessed(KEY, True), Witnessed(WITNESS, True, 1_700_000_000)]
    assert check_note(COSIGNED, [WITNESS], check) == [Witnessed(WITNESS, True, 1_700_000_000)]
    assert check_note(COSIGNED, [NoteKey(ORIGIN, b"x" * 32), NoteKey("other", b"k" * 32)], check) == []
    assert check_note(COSIGNED, [], check) == []


@pytest.mark.parametrize(
    ("note", "key"),
    [
        (SignedNote(Checkpoint(ORIGIN, 8, ROOT).text(), NOTE.signatures), KEY),
        (SignedNote(NOTE.text, (NoteSignature(ORIGIN, KEY.key_id, b"x" * 64),)), KEY),
        (SignedNote(NOTE.text, (NoteSignature(ORIGIN, KEY.key_id, NOTE.signatures[0].signature[:-1]),)), KEY),
        (SignedNote(NOTE.text, (NoteSignature(WITNESS.name, WITNESS.key_id, NOTE.signatures[0].signature),)), WITNESS),
    ],
)
def test_a_signature_that_does_not_hold_is_told(note: SignedNote, key: NoteKey) -> None:
    assert check_note(note, [key], check) == [Witnessed(key, False)]


def test_a_cosignature_holds_for_its_time_only() -> None:
    made = COSIGNED.signatures[1]
    moved = NoteSignature(made.name, made.key_id, (1_700_000_001).to_bytes(8) + made.signature[8:])
    assert check_note(SignedNote(NOTE.text, (moved,)), [WITNESS], check) == [Witnessed(WITNESS, False, 1_700_000_001)]


def test_a_line_that_comes_twice_is_checked_once() -> None:
    asked: list[bytes] = []

    def counting(public_key: bytes, message: bytes, signature: bytes) -> bool:
        asked.append(signature)
        return check(public_key, message, signature)

    twice = SignedNote(NOTE.text, NOTE.signatures * 3)
    assert check_note(twice, [KEY, KEY], counting) == [Witnessed(KEY, True)]
    assert len(asked) == 1
    assert NOTE.with_signatures(NOTE.signatures) == NOTE


def test_keys_that_share_name_and_id_are_both_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoteKey, "key_id", property(lambda _: b"same"))
    twin = NoteKey(ORIGIN, b"t" * 32)
    note = SignedNote(NOTE.text, (NoteSignature(ORIGIN, b"same", NOTE.signatures[0].signature),))
    assert check_note(note, [twin, KEY], check) == [Witnessed(KEY, True)]
    assert check_note(note, [twin], check) == [Witnessed(twin, False)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "text\n",
        "text\n\n",
        "text\n" + line(),
        "text\n\n" + line()[:-1],
        "text\n\n" + line() + "\n",
        "text\n\n" + line() + "more\n",
        "text\n\n- name aWRpZHM=\n",
        "text\n\n\u2014 name\n",
        "text\n\n\u2014 name \n",
        "text\n\n\u2014  aWRpZHM=\n",
        "text\n\n\u2014 name aWRpZA==\n",
        "text\n\n\u2014 name aWRpZHN\n",
        "text\n\n\u2014 name aWRpZHR=\n",
        "text\n\n\u2014 name aWRpZHM= \n",
        "text\n\n\u2014 na+me aWRpZHM=\n",
        "text\n\n\u2014 na\u2003me aWRpZHM=\n",
        "text\r\n\r\n" + line(),
        "te\txt\n\n" + line(),
        "te\x00xt\n\n" + line(),
        "te\ud800xt\n\n" + line(),
        "text\n\n" + line() * 101,
        "x" * MAX_NOTE_BYTES + "\n\n" + line(),
        b"te\xffxt\n\n" + line().encode(),
    ],
    ids=lambda text: f"{text[:30]!r}",
)
def test_what_is_no_note_is_refused(text: str | bytes) -> None:
    with pytest.raises(MalformedNote):
        parse_note(text)


def test_a_note_may_have_blank_lines_in_its_text_and_many_signatures() -> None:
    assert parse_note("a\n\nb\n\n" + line() * 100).text == "a\n\nb\n"


ROOT_LINE = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{ORIGIN}\n",
        f"{ORIGIN}\n7\n",
        f"\n7\n{ROOT_LINE}\n",
        f"{ORIGIN}\n07\n{ROOT_LINE}\n",
        f"{ORIGIN}\n+7\n{ROOT_LINE}\n",
        f"{ORIGIN}\n-7\n{ROOT_LINE}\n",
        f"{ORIGIN}\n7 \n{ROOT_LINE}\n",
        f"{ORIGIN}\n\u0667\n{ROOT_LINE}\n",
        f"{ORIGIN}\n7.0\n{ROOT_LINE}\n",
        f"{ORIGIN}\n{2**63}\n{ROOT_LINE}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{ROOT_LINE}\n",
        f"{ORIGIN}\n7\n{ROOT_LINE[:-1]}\n",
        f"{ORIGIN}\n7\n{ROOT.hex()}\n",
        f"{ORIGIN}\n7\n{base64.b64encode(ROOT[:-1]).decode()}\n",
        f"{ORIGIN}\n7\n\u00e9{ROOT_LINE}\n",
        f"{ORIGIN}\n0\n{ROOT_LINE}\n",
        f"{ORIGIN}\n7\n{ROOT_LINE}\n\n",
        f"{ORIGIN}\n7\n{ROOT_LINE}\nextension\n\n",
    ],
    ids=lambda text: f"{text[:30]!r}",
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(MalformedNote):
        parse_checkpoint(SignedNote(text, ()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Checkpoint("", 7, ROOT),
        lambda: Checkpoint("a\nb", 7, ROOT),
        lambda: Checkpoint("a\tb", 7, ROOT),
        lambda: Checkpoint(ORIGIN, -1, ROOT),
        lambda: Checkpoint(ORIGIN, 2**63, ROOT),
        lambda: Checkpoint(ORIGIN, 7, ROOT[:-1]),
        lambda: Checkpoint(ORIGIN, 0, ROOT),
        lambda: Checkpoint(ORIGIN, 7, ROOT, ("",)),
        lambda: NoteKey("", b"k" * 32),
        lambda: NoteKey("a b", b"k" * 32),
        lambda: NoteKey("a+b", b"k" * 32),
        lambda: NoteKey("a\nb", b"k" * 32),
        lambda: NoteKey("a\ud800b", b"k" * 32),
        lambda: NoteKey(ORIGIN, b"k" * 31),
        lambda: NoteKey(ORIGIN, b"k" * 32, 2),
        lambda: sign_note("text", KEY, signer(KEY)),
        lambda: sign_note("te\txt\n", KEY, signer(KEY)),
        lambda: sign_note("text\n", WITNESS, signer(WITNESS)),
        lambda: sign_note("text\n", KEY, lambda _: b"short"),
        lambda: parse_note_key("name"),
        lambda: parse_note_key("name+12345678"),
        lambda: parse_note_key("name+12345678+"),
        lambda: parse_note_key("name+12345678+!"),
        lambda: parse_note_key(KEY.text().replace("+", "+0", 1)),
        lambda: parse_note_key(KEY.text().replace(ORIGIN, "example.com/log")),
        lambda: parse_note_key(KEY.text() + "="),
        lambda: parse_note_key("name+00000000+" + base64.b64encode(b"\x02" + b"k" * 32).decode()),
    ],
)
def test_values_that_have_no_text_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(MalformedNote):
        make()


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_input_raises_anything_else(data: str | bytes) -> None:
    for form in (data, NOTE.render().encode() + data if isinstance(data, bytes) else NOTE.render() + data):
        try:
            note = parse_note(form)
            assert note.render() == (form.decode() if isinstance(form, bytes) else form)
            assert parse_checkpoint(note).text() == note.text
        except MalformedNote:
            pass


@given(st.integers(0, len(COSIGNED.render()) - 1), st.characters())
def test_no_changed_character_leaves_a_note_that_verifies_as_before(place: int, character: str) -> None:
    text = COSIGNED.render()
    changed = text[:place] + character + text[place + 1 :]
    try:
        note = parse_note(changed)
    except MalformedNote:
        return
    outcomes = check_note(note, [KEY, WITNESS], check)
    intact = [outcome for outcome in outcomes if outcome.valid]
    assert changed == text or len(intact) < 2
