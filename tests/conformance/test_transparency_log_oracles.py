"""The log against what others made: published notes and their keys, and the RFC 9162 trees of the `pymerkle` package.

Notes and keys: golang.org/x/mod/sumdb/note (note_test.go, example_test.go), the key of sum.golang.org, and the example of
https://c2sp.org/tlog-checkpoint, whose signature is that key's over the same lines under the origin `go.sum database tree`.
"""

import base64
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from nexus_control import merkle
from nexus_control.checkpoint import (
    ALGORITHM_COSIGNATURE,
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

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
PETER_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"  # of `PRIVATE+KEY+PeterNeumann+c74f20a3+...`, public in that test
ABOUT_CRYPTOGRAPHY = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
\u2014 EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=
"""
GO_SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
BEHIND_THE_SOFA = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
"""

pymerkle: Any = import_module("pymerkle")  # untyped

LEAVES = [f"leaf {number}".encode() for number in range(70)]


def ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(public_key).verify(message, signature)
    except BadSignatureError:
        return False
    return True


@pytest.mark.parametrize("text", [PETER, ENOCH, GO_SUMDB])
def test_published_verifier_keys_are_read_and_written(text: str) -> None:
    assert parse_note_key(text).text() == text


def test_published_note_verifies_under_both_keys() -> None:
    note = parse_note(ABOUT_CRYPTOGRAPHY)
    keys = [parse_note_key(PETER), parse_note_key(ENOCH)]
    assert note.render() == ABOUT_CRYPTOGRAPHY
    assert check_note(note, keys, ed25519) == [Witnessed(key, True) for key in keys]
    other = SignedNote(note.text.replace("problem", "question"), note.signatures)
    assert check_note(other, keys, ed25519) == [Witnessed(key, False) for key in keys]


def test_published_secret_key_makes_the_published_signature() -> None:
    note, key = parse_note(ABOUT_CRYPTOGRAPHY), parse_note_key(PETER)
    secret = SigningKey(base64.b64decode(PETER_SECRET)[1:])
    assert sign_note(note.text, key, lambda message: secret.sign(message).signature) == SignedNote(note.text, note.signatures[:1])


def test_published_checkpoint_is_read_and_written() -> None:
    note = parse_note(BEHIND_THE_SOFA)
    checkpoint = parse_checkpoint(note)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex() == "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
    assert note.render() == BEHIND_THE_SOFA
    assert checkpoint.text() == note.text


def test_published_signature_of_the_go_checksum_database_verifies() -> None:
    (signature,) = parse_note(BEHIND_THE_SOFA).signatures
    checkpoint = parse_checkpoint(parse_note(BEHIND_THE_SOFA))
    key = parse_note_key(GO_SUMDB)
    note = SignedNote(
        Checkpoint("go.sum database tree", checkpoint.size, checkpoint.root).text(),
        (NoteSignature(key.name, signature.key_id, signature.signature),),
    )
    assert check_note(note, [key], ed25519) == [Witnessed(key, True)]


def test_cosignature_is_over_the_specified_message() -> None:
    secret = SigningKey(bytes(range(32)))
    key = NoteKey("witness.example.org", bytes(secret.verify_key), ALGORITHM_COSIGNATURE)
    text = BEHIND_THE_SOFA.partition("\n\n")[0] + "\n"
    message = b"cosignature/v1\ntime 1679315147\n" + text.encode()
    line = NoteSignature(key.name, key.key_id, (1679315147).to_bytes(8) + secret.sign(message).signature)
    note = parse_note(parse_note(BEHIND_THE_SOFA).with_signatures([line]).render())
    assert check_note(note, [key], ed25519) == [Witnessed(key, True, 1679315147)]


def their_tree(size: int) -> Any:
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for leaf in LEAVES[:size]:
        tree.append_entry(leaf)
    return tree


THEIRS = their_tree(len(LEAVES))
NODES = merkle.leaf_nodes([merkle.leaf_hash(leaf) for leaf in LEAVES])


@pytest.mark.parametrize("size", range(1, len(LEAVES) + 1))
def test_roots_and_proofs_are_those_of_another_implementation(size: int) -> None:
    ours = merkle.root(size, NODES)
    assert ours == THEIRS.get_root(size)
    for index in range(0, size, 7):
        theirs = THEIRS.prove_inclusion(index + 1, size)
        pymerkle.verify_inclusion(merkle.leaf_hash(LEAVES[index]), ours, theirs)
        assert merkle.inclusion_proof(index, size, NODES) == theirs.path[1:]
        assert merkle.verify_inclusion(merkle.leaf_hash(LEAVES[index]), index, size, theirs.path[1:], THEIRS.get_root(size))


@pytest.mark.parametrize(("old", "new"), [*pairwise(range(1, 71)), (1, 70), (33, 64), (64, 70), (31, 70)])
def test_consistency_of_another_implementation_verifies_ours(old: int, new: int) -> None:
    theirs = THEIRS.prove_consistency(old, new)
    pymerkle.verify_consistency(merkle.root(old, NODES), merkle.root(new, NODES), theirs)
    proof = merkle.consistency_proof(old, new, NODES)
    assert merkle.verify_consistency(old, THEIRS.get_root(old), new, THEIRS.get_root(new), proof)
