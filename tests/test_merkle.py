"""`nexus_control.merkle` against published vectors and against RFC 6962's own recursive definitions."""

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_control import merkle
from nexus_control.merkle import (
    Frontier,
    consistency_proof,
    empty_root,
    inclusion_proof,
    joint_inclusion_proof,
    leaf_hash,
    leaf_nodes,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
    verify_joint_inclusion,
)

# Leaf inputs, roots and proofs of the reference trees of Certificate Transparency:
# https://github.com/google/certificate-transparency/blob/master/cpp/merkletree/merkle_tree_test.cc, also
# https://github.com/transparency-dev/merkle/tree/main/testonly. Their indexes and snapshots count from 1.
CT_LEAVES = [
    bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_INCLUSION: list[tuple[int, int, list[str]]] = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (3, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        2,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CT_CONSISTENCY: list[tuple[int, int, list[str]]] = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]

LARGEST = 40
CONTENTS = [f"leaf {number}".encode() for number in range(LARGEST)]
HASHES = [leaf_hash(content) for content in CONTENTS]
NODES = leaf_nodes(HASHES)
ROOTS = [root(size, NODES) for size in range(LARGEST + 1)]


# From here to `is_consistent`: the definitions of RFC 6962 section 2.1 as they are written there, with nothing of the module under test.


def largest_power_of_two_below(n: int) -> int:
    k = 1
    while 2 * k < n:
        k = 2 * k
    return k


def mth(d: Sequence[bytes]) -> bytes:
    if not d:
        return sha256().digest()
    if len(d) == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = largest_power_of_two_below(len(d))
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = largest_power_of_two_below(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Sequence[bytes], *, is_complete: bool) -> list[bytes]:
    if m == len(d):
        return [] if is_complete else [mth(d)]
    k = largest_power_of_two_below(len(d))
    if m <= k:
        return [*subproof(m, d[:k], is_complete=is_complete), mth(d[k:])]
    return [*subproof(m - k, d[k:], is_complete=False), mth(d[:k])]


def root_from_path(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that `path` read backwards leads to; None when the number of hashes is wrong."""
    if size == 1:
        return None if proof else leaf
    if not proof:
        return None
    k = largest_power_of_two_below(size)
    if index < k:
        below = root_from_path(leaf, index, k, proof[:-1])
        return below and sha256(b"\x01" + below + proof[-1]).digest()
    below = root_from_path(leaf, index - k, size - k, proof[:-1])
    return below and sha256(b"\x01" + proof[-1] + below).digest()


def roots_from_subproof(m: int, n: int, proof: Sequence[bytes], known: bytes | None) -> tuple[bytes, bytes] | None:
    """The two roots that `subproof` read backwards leads to, `known` being the old tree's; None when the number of hashes is wrong."""
    if m == n:
        if known is None:
            return (proof[0], proof[0]) if len(proof) == 1 else None
        return None if proof else (known, known)
    if not proof:
        return None
    k = largest_power_of_two_below(n)
    if m <= k:
        below = roots_from_subproof(m, k, proof[:-1], known)
        return below and (below[0], sha256(b"\x01" + below[1] + proof[-1]).digest())
    below = roots_from_subproof(m - k, n - k, proof[:-1], None)
    return below and (sha256(b"\x01" + proof[-1] + below[0]).digest(), sha256(b"\x01" + proof[-1] + below[1]).digest())


def is_consistent(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    if old_size == 0:
        return not proof and old_root == mth([]) and (new_size > 0 or new_root == old_root)
    return old_size <= new_size and roots_from_subproof(old_size, new_size, proof, old_root) == (old_root, new_root)


def flipped(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value) ^ (1 << bit)).to_bytes(len(value))


def recording(calls: list[tuple[int, int]]) -> merkle.Nodes:
    """Nodes of a tree of any size that answer without having leaves, and write down what was asked."""

    def nodes(level: int, index: int) -> bytes:
        calls.append((level, index))
        return sha256(f"{level} {index}".encode()).digest()

    return nodes


leaves = st.lists(st.binary(max_size=4), max_size=70)


@st.composite
def inclusion(draw: st.DrawFn) -> tuple[int, int, list[bytes]]:
    size = draw(st.integers(1, LARGEST))
    index = draw(st.integers(0, size - 1))
    return index, size, inclusion_proof(index, size, NODES)


@st.composite
def consistency(draw: st.DrawFn) -> tuple[int, int, list[bytes]]:
    new = draw(st.integers(1, LARGEST))
    old = draw(st.integers(1, new))
    return old, new, consistency_proof(old, new, NODES)


def test_leaves_and_nodes_are_hashed_under_different_prefixes() -> None:
    assert leaf_hash(b"") == sha256(b"\x00").digest()
    assert leaf_hash(b"ab") == sha256(b"\x00ab").digest()
    assert node_hash(b"a", b"b") == sha256(b"\x01ab").digest()
    assert empty_root() == sha256(b"").digest()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    hashes = [leaf_hash(content) for content in CT_LEAVES]
    frontier = Frontier()
    for value in hashes[:size]:
        frontier.append(value)
    assert root(size, leaf_nodes(hashes)).hex() == CT_ROOTS[size]
    assert frontier.root().hex() == CT_ROOTS[size]
    assert mth(CT_LEAVES[:size]).hex() == CT_ROOTS[size]


@pytest.mark.parametrize(("leaf", "snapshot", "expected"), CT_INCLUSION)
def test_inclusion_proofs_are_those_of_certificate_transparency(leaf: int, snapshot: int, expected: list[str]) -> None:
    hashes = [leaf_hash(content) for content in CT_LEAVES]
    proof = inclusion_proof(leaf - 1, snapshot, leaf_nodes(hashes))
    assert [value.hex() for value in proof] == expected
    assert verify_inclusion(hashes[leaf - 1], leaf - 1, snapshot, proof, bytes.fromhex(CT_ROOTS[snapshot])) is True


@pytest.mark.parametrize(("old", "new", "expected"), CT_CONSISTENCY)
def test_consistency_proofs_are_those_of_certificate_transparency(old: int, new: int, expected: list[str]) -> None:
    proof = consistency_proof(old, new, leaf_nodes([leaf_hash(content) for content in CT_LEAVES]))
    assert [value.hex() for value in proof] == expected
    assert verify_consistency(old, bytes.fromhex(CT_ROOTS[old]), new, bytes.fromhex(CT_ROOTS[new]), proof) is True


@given(leaves)
def test_root_is_the_defined_one(contents: list[bytes]) -> None:
    hashes = [leaf_hash(content) for content in contents]
    frontier = Frontier()
    for number, value in enumerate(hashes):
        assert frontier.size == number
        frontier.append(value)
    assert frontier.size == len(contents)
    assert root(len(contents), leaf_nodes(hashes)) == frontier.root() == mth(contents)


def test_frontier_gives_the_root_after_every_leaf() -> None:
    frontier = Frontier()
    seen = [frontier.root()]
    for value in HASHES:
        frontier.append(value)
        assert frontier.root() == frontier.root()
        seen.append(frontier.root())
    assert seen == ROOTS


def test_a_tree_held_in_memory_may_grow() -> None:
    hashes = HASHES[:5]
    nodes = leaf_nodes(hashes)
    assert root(5, nodes) == ROOTS[5]
    hashes += HASHES[5:]
    assert root(LARGEST, nodes) == mth(CONTENTS)


def test_every_inclusion_proof_is_the_defined_one_and_verifies() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, NODES)
            assert proof == path(index, CONTENTS[:size])
            assert verify_inclusion(HASHES[index], index, size, proof, ROOTS[size]) is True


def test_every_consistency_proof_is_the_defined_one_and_verifies() -> None:
    for new in range(1, LARGEST + 1):
        for old in range(1, new + 1):
            proof = consistency_proof(old, new, NODES)
            assert proof == subproof(old, CONTENTS[:new], is_complete=True)
            assert verify_consistency(old, ROOTS[old], new, ROOTS[new], proof) is True


def test_inclusion_proof_holds_for_no_other_leaf_and_no_other_index() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, NODES)
            for other in (*range(index), *range(index + 1, size + 3)):
                assert verify_inclusion(HASHES[index], other, size, proof, ROOTS[size]) is False
                assert other >= size or verify_inclusion(HASHES[other], index, size, proof, ROOTS[size]) is False


def test_inclusion_proof_holds_for_no_other_tree() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, NODES)
            for other in (*range(size), *range(size + 1, LARGEST + 1)):
                assert verify_inclusion(HASHES[index], index, other, proof, ROOTS[other]) is False


def test_consistency_proof_holds_for_no_other_pair_of_trees() -> None:
    for new in range(2, LARGEST // 2):
        for old in range(1, new):
            proof = consistency_proof(old, new, NODES)
            for other in (*range(new), *range(new + 1, LARGEST)):
                assert verify_consistency(old, ROOTS[old], other, ROOTS[other], proof) is False
            for other in (*range(old), *range(old + 1, LARGEST)):
                assert verify_consistency(other, ROOTS[other], new, ROOTS[new], proof) is False


@given(inclusion(), st.integers(0, 255), st.data())
def test_every_flipped_bit_breaks_an_inclusion_proof(case: tuple[int, int, list[bytes]], bit: int, data: st.DataObject) -> None:
    index, size, proof = case
    assert verify_inclusion(flipped(HASHES[index], bit), index, size, proof, ROOTS[size]) is False
    assert verify_inclusion(HASHES[index], index, size, proof, flipped(ROOTS[size], bit)) is False
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [*proof[:place], flipped(proof[place], bit), *proof[place + 1 :]]
        assert verify_inclusion(HASHES[index], index, size, changed, ROOTS[size]) is False


@given(consistency(), st.integers(0, 255), st.data())
def test_every_flipped_bit_breaks_a_consistency_proof(case: tuple[int, int, list[bytes]], bit: int, data: st.DataObject) -> None:
    old, new, proof = case
    assert verify_consistency(old, flipped(ROOTS[old], bit), new, ROOTS[new], proof) is False
    assert verify_consistency(old, ROOTS[old], new, flipped(ROOTS[new], bit), proof) is False
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [*proof[:place], flipped(proof[place], bit), *proof[place + 1 :]]
        assert verify_consistency(old, ROOTS[old], new, ROOTS[new], changed) is False


@given(inclusion(), st.integers(0, 10), st.integers(0, 10))
def test_flipped_bits_of_index_and_size_are_judged_as_defined(case: tuple[int, int, list[bytes]], left: int, right: int) -> None:
    # A flipped bit of the size alone is not always noticed, because paths of some sizes have the same shape; of the index it always is.
    index, size, proof = case
    assert verify_inclusion(HASHES[index], index ^ (1 << left), size, proof, ROOTS[size]) is False
    other = size ^ (1 << right)
    expected = index < other and root_from_path(HASHES[index], index, other, proof) == ROOTS[size]
    assert verify_inclusion(HASHES[index], index, other, proof, ROOTS[size]) is expected


@given(consistency(), st.integers(0, 10))
def test_flipped_bits_of_sizes_are_judged_as_defined(case: tuple[int, int, list[bytes]], bit: int) -> None:
    old, new, proof = case
    for first, second in ((old ^ (1 << bit), new), (old, new ^ (1 << bit)), (old ^ (1 << bit), new ^ (1 << bit))):
        expected = is_consistent(first, ROOTS[old], second, ROOTS[new], proof)
        assert verify_consistency(first, ROOTS[old], second, ROOTS[new], proof) is expected


@given(inclusion(), st.data())
def test_inclusion_proof_with_hashes_dropped_added_or_swapped_fails(case: tuple[int, int, list[bytes]], data: st.DataObject) -> None:
    index, size, proof = case
    place = data.draw(st.integers(0, len(proof)))
    extra = data.draw(st.sampled_from([*HASHES[:3], *ROOTS[:3], ROOTS[size], *proof]))
    assert verify_inclusion(HASHES[index], index, size, [*proof[:place], extra, *proof[place:]], ROOTS[size]) is False
    if proof:
        assert verify_inclusion(HASHES[index], index, size, proof[:-1], ROOTS[size]) is False
        assert verify_inclusion(HASHES[index], index, size, proof[1:], ROOTS[size]) is False
    if len(proof) > 1:
        assert verify_inclusion(HASHES[index], index, size, proof[::-1], ROOTS[size]) is False


@given(consistency(), st.data())
def test_consistency_proof_with_hashes_dropped_added_or_swapped_fails(case: tuple[int, int, list[bytes]], data: st.DataObject) -> None:
    old, new, proof = case
    place = data.draw(st.integers(0, len(proof)))
    extra = data.draw(st.sampled_from([*HASHES[:3], *ROOTS[:3], ROOTS[old], ROOTS[new], *proof]))
    assert verify_consistency(old, ROOTS[old], new, ROOTS[new], [*proof[:place], extra, *proof[place:]]) is False
    if proof:
        assert verify_consistency(old, ROOTS[old], new, ROOTS[new], proof[:-1]) is False
        assert verify_consistency(old, ROOTS[old], new, ROOTS[new], proof[1:]) is False
    if len(proof) > 1:
        assert verify_consistency(old, ROOTS[old], new, ROOTS[new], proof[::-1]) is False


@given(st.integers(0, 20), st.integers(0, 20), st.lists(st.sampled_from([*HASHES[:4], *ROOTS[:4]]), max_size=6), st.data())
def test_made_up_proofs_are_judged_as_defined(first: int, second: int, proof: list[bytes], data: st.DataObject) -> None:
    some_hash = st.sampled_from([*HASHES[:4], *ROOTS[:4]])
    leaf, claimed = data.draw(some_hash), data.draw(some_hash)
    reached = root_from_path(leaf, first, second, proof) if first < second else None
    assert verify_inclusion(leaf, first, second, proof, claimed) is (reached == claimed)
    if reached is not None:
        assert verify_inclusion(leaf, first, second, proof, reached) is True
    assert verify_consistency(first, leaf, second, claimed, proof) is is_consistent(first, leaf, second, claimed, proof)
    if 0 < first <= second and (roots := roots_from_subproof(first, second, proof, leaf)) is not None:
        expected = is_consistent(first, roots[0], second, roots[1], proof)
        assert verify_consistency(first, roots[0], second, roots[1], proof) is expected


@given(consistency())
def test_a_forged_history_has_no_consistency_proof(case: tuple[int, int, list[bytes]]) -> None:
    old, new, _ = case
    forged = [leaf_hash(b"forged"), *HASHES[1:]]
    proof = consistency_proof(old, new, leaf_nodes(forged))
    assert verify_consistency(old, ROOTS[old], new, root(new, leaf_nodes(forged)), proof) is False


def test_a_proof_that_is_too_long_fails_for_the_root_that_it_leads_to() -> None:
    """Whoever chooses the root can make every hash of a longer proof count; the size says that there is no place for it."""
    leaf, extra = leaf_hash(b"leaf"), leaf_hash(b"extra")
    assert not verify_inclusion(leaf, 0, 1, [extra], node_hash(extra, leaf))
    assert not verify_inclusion(leaf, 0, 1, [extra], node_hash(leaf, extra))
    leaves = [leaf_hash(bytes([number])) for number in range(4)]
    nodes = leaf_nodes(leaves)
    old, new, proof = root(3, nodes), root(4, nodes), consistency_proof(3, 4, nodes)
    assert verify_consistency(3, old, 4, new, proof)
    assert not verify_consistency(3, node_hash(extra, old), 4, node_hash(extra, new), [*proof, extra])
    assert not verify_consistency(3, old, 4, node_hash(new, extra), [*proof, extra])


def test_places_beyond_those_that_python_keeps_are_compared_by_value() -> None:
    """Numbers above 256 are objects of their own each time."""
    leaves = [leaf_hash(number.to_bytes(2)) for number in range(602)]
    nodes = leaf_nodes(leaves)
    before, whole = root(601, nodes), root(602, nodes)
    assert verify_inclusion(leaves[600], 600, 601, inclusion_proof(600, 601, nodes), before)
    assert verify_consistency(601, before, 602, whole, consistency_proof(601, 602, nodes))
    some = dict(enumerate(leaves[:300]))
    assert verify_joint_inclusion(some, 602, joint_inclusion_proof(some, 602, nodes), whole)


def test_an_inner_node_does_not_pass_for_a_leaf() -> None:
    inner = node_hash(HASHES[0], HASHES[1])
    assert verify_inclusion(inner, 0, 2, [HASHES[2]], ROOTS[3]) is True  # a verifier that was lied to about the size
    assert leaf_hash(HASHES[0] + HASHES[1]) != inner
    assert verify_inclusion(leaf_hash(HASHES[0] + HASHES[1]), 0, 2, [HASHES[2]], ROOTS[3]) is False


@pytest.mark.parametrize("new", [0, 1, 7])
def test_every_tree_begins_with_the_tree_without_leaves(new: int) -> None:
    assert consistency_proof(0, new, NODES) == []
    assert verify_consistency(0, empty_root(), new, ROOTS[new], []) is True
    assert verify_consistency(0, ROOTS[1], new, ROOTS[new], []) is False
    assert verify_consistency(0, empty_root(), new, ROOTS[new], [HASHES[0]]) is False


@pytest.mark.parametrize("other", [bytes(32), b"\xe4" + empty_root()[1:], b"\xff" * 32])
def test_no_other_root_is_that_of_the_tree_without_leaves(other: bytes) -> None:
    assert not verify_consistency(0, other, 0, other, [])
    assert not verify_consistency(0, other, 3, ROOTS[3], [])


def test_the_tree_without_leaves_has_one_root() -> None:
    assert verify_consistency(0, empty_root(), 0, empty_root(), []) is True
    assert verify_consistency(0, ROOTS[1], 0, ROOTS[1], []) is False
    assert verify_consistency(0, empty_root(), 0, ROOTS[1], []) is False


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_trees_of_equal_size_are_consistent_when_they_are_the_same(size: int) -> None:
    assert verify_consistency(size, ROOTS[size], size, ROOTS[size], []) is True
    assert verify_consistency(size, ROOTS[size], size, ROOTS[size + 1], []) is False
    assert verify_consistency(size, ROOTS[size], size, ROOTS[size], [ROOTS[size]]) is False


def test_a_tree_that_shrank_is_not_consistent() -> None:
    for old, new in pairwise(range(8, -1, -1)):
        assert verify_consistency(old, ROOTS[old], new, ROOTS[new], []) is False
        assert verify_consistency(old, ROOTS[old], new, ROOTS[new], consistency_proof(new, old, NODES)) is False


def test_growth_needs_a_proof() -> None:
    assert verify_consistency(4, ROOTS[4], 8, ROOTS[8], []) is False
    assert verify_consistency(4, ROOTS[8], 8, ROOTS[8], []) is False


def test_nothing_is_included_in_the_tree_without_leaves() -> None:
    assert verify_inclusion(HASHES[0], 0, 0, [], empty_root()) is False
    assert verify_inclusion(empty_root(), 0, 0, [], empty_root()) is False


NO_HASHES: list[Any] = [b"", HASHES[0][:-1], HASHES[0] + b"\x00", HASHES[0].hex(), bytearray(HASHES[0]), None, 7]


@pytest.mark.parametrize("bad", NO_HASHES, ids=repr)
def test_what_is_no_hash_proves_nothing(bad: Any) -> None:
    proof = inclusion_proof(2, 7, NODES)
    assert verify_inclusion(bad, 2, 7, proof, ROOTS[7]) is False
    assert verify_inclusion(HASHES[2], 2, 7, proof, bad) is False
    assert verify_inclusion(bad, 0, 1, [], bad) is False
    for place in range(len(proof)):
        assert verify_inclusion(HASHES[2], 2, 7, [*proof[:place], bad, *proof[place + 1 :]], ROOTS[7]) is False
    proof = consistency_proof(3, 7, NODES)
    assert verify_consistency(3, bad, 7, ROOTS[7], proof) is False
    assert verify_consistency(3, ROOTS[3], 7, bad, proof) is False
    assert verify_consistency(3, bad, 3, bad, []) is False
    assert verify_consistency(0, empty_root(), 7, bad, []) is False
    for place in range(len(proof)):
        assert verify_consistency(3, ROOTS[3], 7, ROOTS[7], [*proof[:place], bad, *proof[place + 1 :]]) is False


def test_a_text_is_no_proof() -> None:
    proof: Any = HASHES[1].hex()
    assert verify_inclusion(HASHES[0], 0, 2, proof, ROOTS[2]) is False


@pytest.mark.parametrize("bad", [-1, -(2**70), 1.0, "1", None, True], ids=repr)
def test_numbers_that_no_tree_has_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"^size must be a non-negative integer, got "):
        root(bad, NODES)
    with pytest.raises(ValueError, match=r"^index must be a non-negative integer, got "):
        inclusion_proof(bad, 3, NODES)
    with pytest.raises(ValueError, match=r"^size must be a non-negative integer, got "):
        inclusion_proof(0, bad, NODES)
    with pytest.raises(ValueError, match=r"^old must be a non-negative integer, got "):
        consistency_proof(bad, 3, NODES)
    with pytest.raises(ValueError, match=r"^new must be a non-negative integer, got "):
        consistency_proof(0, bad, NODES)
    with pytest.raises(ValueError, match=r"^index must be a non-negative integer, got "):
        verify_inclusion(HASHES[0], bad, 3, [], ROOTS[3])
    with pytest.raises(ValueError, match=r"^size must be a non-negative integer, got "):
        verify_inclusion(HASHES[0], 0, bad, [], ROOTS[3])
    with pytest.raises(ValueError, match=r"^old_size must be a non-negative integer, got "):
        verify_consistency(bad, ROOTS[1], 3, ROOTS[3], [])
    with pytest.raises(ValueError, match=r"^new_size must be a non-negative integer, got "):
        verify_consistency(0, ROOTS[0], bad, ROOTS[3], [])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (3, 3), (4, 3)])
def test_a_leaf_that_is_not_there_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"^a tree of {size} leaves has no leaf with index {index}$"):
        inclusion_proof(index, size, NODES)


def test_a_larger_tree_is_no_part_of_a_smaller_one() -> None:
    with pytest.raises(ValueError, match=r"^a tree of 4 leaves is no part of a tree of 3$"):
        consistency_proof(4, 3, NODES)


@given(st.integers(1, 2**64), st.data())
def test_roots_and_proofs_of_huge_trees_ask_for_few_and_only_for_full_subtrees(size: int, data: st.DataObject) -> None:
    other = data.draw(st.integers(0, size - 1))
    for ask in (partial(root, size), partial(inclusion_proof, other, size), partial(consistency_proof, other, size)):
        calls: list[tuple[int, int]] = []
        ask(recording(calls))
        assert len(calls) <= 2 * size.bit_length()
        assert len(set(calls)) == len(calls)
        assert all((index + 1) << level <= size for level, index in calls)


@given(st.integers(1, 2**64), st.data())
def test_proofs_of_huge_trees_lead_to_the_root(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    index = data.draw(st.integers(0, size - 1))
    nodes = recording([])
    proof = inclusion_proof(index, size, nodes)
    reached = root_from_path(HASHES[0], index, size, proof)
    assert reached is not None
    assert verify_inclusion(HASHES[0], index, size, proof, reached) is True
    assert verify_inclusion(HASHES[1], index, size, proof, reached) is False
    proof = consistency_proof(old, size, nodes)
    roots = roots_from_subproof(old, size, proof, root(old, nodes))
    assert roots is not None
    assert verify_consistency(old, roots[0], size, roots[1], proof) is True


# -- one proof for several leaves


def joint_path(wanted: set[int], start: int, contents: Sequence[bytes]) -> list[bytes]:
    """What `joint_inclusion_proof` promises, as a definition: the roots of the largest subtrees without a wanted leaf, left to right."""
    if not any(start <= index < start + len(contents) for index in wanted):
        return [mth(contents)]
    if len(contents) == 1:
        return []
    k = largest_power_of_two_below(len(contents))
    return [*joint_path(wanted, start, contents[:k]), *joint_path(wanted, start + k, contents[k:])]


@st.composite
def joint_inclusion(draw: st.DrawFn) -> tuple[dict[int, bytes], int, list[bytes]]:
    size = draw(st.integers(1, LARGEST))
    wanted = draw(st.sets(st.integers(0, size - 1), min_size=1))
    return {index: HASHES[index] for index in wanted}, size, joint_inclusion_proof(wanted, size, NODES)


@given(joint_inclusion())
def test_joint_proof_is_the_defined_one_and_verifies(case: tuple[dict[int, bytes], int, list[bytes]]) -> None:
    leaves, size, proof = case
    assert proof == joint_path(set(leaves), 0, CONTENTS[:size])
    assert verify_joint_inclusion(leaves, size, proof, ROOTS[size]) is True


def test_joint_proof_of_one_leaf_has_the_hashes_of_its_inclusion_proof() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            assert sorted(joint_inclusion_proof([index], size, NODES)) == sorted(inclusion_proof(index, size, NODES))


def test_joint_proof_of_all_leaves_is_empty() -> None:
    for size in range(1, LARGEST + 1):
        assert joint_inclusion_proof(range(size), size, NODES) == []
        assert verify_joint_inclusion(dict(enumerate(HASHES[:size])), size, [], ROOTS[size]) is True


def test_joint_proof_takes_an_index_that_is_named_twice_once() -> None:
    assert joint_inclusion_proof([3, 1, 3], 7, NODES) == joint_inclusion_proof([1, 3], 7, NODES)


@given(joint_inclusion(), st.integers(0, 255), st.data())
def test_every_change_breaks_a_joint_proof(case: tuple[dict[int, bytes], int, list[bytes]], bit: int, data: st.DataObject) -> None:
    leaves, size, proof = case
    index = data.draw(st.sampled_from(sorted(leaves)))
    assert verify_joint_inclusion({**leaves, index: flipped(leaves[index], bit)}, size, proof, ROOTS[size]) is False
    assert verify_joint_inclusion(leaves, size, proof, flipped(ROOTS[size], bit)) is False
    assert verify_joint_inclusion(leaves, size, [*proof, HASHES[0]], ROOTS[size]) is False
    for other in (*range(size), *range(size + 1, LARGEST + 1)):
        assert verify_joint_inclusion(leaves, other, proof, ROOTS[other]) is False
    for place in range(len(proof)):
        changed = [*proof[:place], flipped(proof[place], bit), *proof[place + 1 :]]
        assert verify_joint_inclusion(leaves, size, changed, ROOTS[size]) is False
        assert verify_joint_inclusion(leaves, size, [*proof[:place], *proof[place + 1 :]], ROOTS[size]) is False


@given(joint_inclusion(), st.data())
def test_joint_proof_holds_for_no_other_indexes(case: tuple[dict[int, bytes], int, list[bytes]], data: st.DataObject) -> None:
    leaves, size, proof = case
    moved = data.draw(st.permutations(range(LARGEST)))
    others = {moved[index]: value for index, value in leaves.items()}
    assert verify_joint_inclusion(others, size, proof, ROOTS[size]) is (others == leaves)


@given(st.integers(1, 2**64 - 1), st.data())
def test_joint_proofs_of_huge_trees_ask_for_few_and_only_for_full_subtrees(size: int, data: st.DataObject) -> None:
    wanted = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=8))
    calls: list[tuple[int, int]] = []
    proof = joint_inclusion_proof(wanted, size, recording(calls))
    assert len(proof) <= len(wanted) * size.bit_length()
    assert all((index + 1) << level <= size for level, index in calls)
    assert verify_joint_inclusion(dict.fromkeys(wanted, HASHES[0]), size, proof, HASHES[1]) is False


def test_nothing_can_be_proved_about_no_leaf() -> None:
    with pytest.raises(ValueError, match=r"^there is nothing to prove about no leaf$"):
        joint_inclusion_proof([], 7, NODES)
    assert verify_joint_inclusion({}, 7, [ROOTS[7]], ROOTS[7]) is False
    assert verify_joint_inclusion({}, 0, [], empty_root()) is False


@pytest.mark.parametrize("bad", NO_HASHES, ids=repr)
def test_what_is_no_hash_proves_nothing_jointly(bad: Any) -> None:
    assert verify_joint_inclusion({0: bad}, 1, [], bad) is False
    assert verify_joint_inclusion({0: HASHES[0]}, 2, [bad], ROOTS[2]) is False
    assert verify_joint_inclusion({0: HASHES[0]}, 1, [], bad) is False


@pytest.mark.parametrize("bad", [-1, 1.0, "1", None, True], ids=repr)
def test_joint_proofs_refuse_numbers_that_no_tree_has(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"^index must be a non-negative integer, got "):
        joint_inclusion_proof([0, bad], 3, NODES)
    with pytest.raises(ValueError, match=r"^size must be a non-negative integer, got "):
        joint_inclusion_proof([0], bad, NODES)
    with pytest.raises(ValueError, match=r"^index must be a non-negative integer, got "):
        verify_joint_inclusion({0: HASHES[0], bad: HASHES[0]} if bad is not True else {bad: HASHES[0]}, 3, [], ROOTS[3])
    with pytest.raises(ValueError, match=r"^size must be a non-negative integer, got "):
        verify_joint_inclusion({0: HASHES[0]}, bad, [], ROOTS[3])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (0, 2**64)])
def test_a_leaf_that_is_not_there_has_no_joint_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"^a tree of {size} leaves has no leaf with index {index}$"):
        joint_inclusion_proof([index], size, NODES)
    assert verify_joint_inclusion({index: HASHES[0]}, size, [], HASHES[0]) is False


@pytest.mark.parametrize(("index", "size"), [(9, 3), (0, 2**64), (5, 2**64 + 1)])
def test_a_leaf_or_a_tree_beyond_the_bounds_has_no_joint_proof(index: int, size: int) -> None:
    asked: list[int] = []
    with pytest.raises(ValueError, match="has no leaf"):
        joint_inclusion_proof([index], size, lambda level, _: asked.append(level) or bytes(32))
    assert asked == []


def test_a_joint_proof_for_a_tree_of_more_leaves_than_64_bits_count_fails_also_when_its_hashes_fit() -> None:
    leaf = leaf_hash(b"leaf")
    for levels, holds in ((63, True), (64, False)):
        proof = [bytes([level]) * 32 for level in range(levels)]
        computed = leaf
        for sibling in proof:
            computed = node_hash(computed, sibling)
        assert verify_joint_inclusion({0: leaf}, 2**levels, proof, computed) is holds


def test_a_size_that_no_tree_has_costs_nothing() -> None:
    assert verify_joint_inclusion({0: HASHES[0]}, 2**100_000, [HASHES[0]] * 10, HASHES[0]) is False


def test_frontier_keeps_few_hashes() -> None:
    frontier = Frontier()
    for _ in range(1000):
        frontier.append(HASHES[0])
        assert len(frontier._full) == frontier.size.bit_count()  # pyright: ignore[reportPrivateUsage]  memory is the claim


def test_public_names() -> None:
    assert merkle.__all__ == [
        "HASH_SIZE",
        "Frontier",
        "Nodes",
        "consistency_proof",
        "empty_root",
        "inclusion_proof",
        "joint_inclusion_proof",
        "leaf_hash",
        "leaf_nodes",
        "node_hash",
        "root",
        "verify_consistency",
        "verify_inclusion",
        "verify_joint_inclusion",
    ]
