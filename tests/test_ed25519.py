import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_attest import ed25519

# RFC 8032 section 7.1, tests 1 to 3: seed, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
SEED, PUBLIC, MESSAGE, SIGNATURE = map(bytes.fromhex, VECTORS[2])

ORDER = 2**252 + 27742317777372353535851937790883648493

# The canonical encodings of all points of small order, and the two non-canonical ones of y = 1 and y = -1 beyond the field's prime.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), VECTORS)
def test_keys_and_signatures_are_those_of_the_rfc(seed: str, public: str, message: str, signature: str) -> None:
    key, text, signed = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert ed25519.public_key_of(bytes.fromhex(seed)) == key
    assert ed25519.sign(bytes.fromhex(seed), text) == signed
    assert ed25519.verify(key, text, signed)
    assert ed25519.is_public_key(key)


@given(st.integers(0, 63), st.integers(1, 255))
def test_every_byte_of_a_signature_matters(index: int, flip: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[index] ^= flip
    assert not ed25519.verify(PUBLIC, MESSAGE, bytes(changed))


@given(st.binary(max_size=80))
def test_no_other_message_key_or_signature_will_do(data: bytes) -> None:
    assert not ed25519.verify(PUBLIC, data, SIGNATURE) or data == MESSAGE
    assert not ed25519.verify(data, MESSAGE, SIGNATURE)
    assert not ed25519.verify(PUBLIC, MESSAGE, data)


def test_a_second_signature_cannot_be_made_out_of_a_first() -> None:
    """Malleability: S and S + L satisfy the same equation; RFC 8032 section 5.1.7 demands that S be reduced."""
    scalar = int.from_bytes(SIGNATURE[32:], "little") + ORDER
    assert not ed25519.verify(PUBLIC, MESSAGE, SIGNATURE[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_of_small_order_is_none_and_verifies_nothing(point: str) -> None:
    """Under such a key a signature without any private key would fit every message: R of small order, S = 0."""
    key = bytes.fromhex(point)
    assert not ed25519.is_public_key(key)
    for nonce in SMALL_ORDER:
        for message in (b"", b"approve", b"revoke"):
            assert not ed25519.verify(key, message, bytes.fromhex(nonce) + bytes(32))


@pytest.mark.parametrize("raw", [b"", bytes(31), PUBLIC + b"\0", b"\xff" * 32, bytes.fromhex("02" + "00" * 31)])
def test_bytes_that_are_no_point_are_no_key(raw: bytes) -> None:
    assert not ed25519.is_public_key(raw)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(64)])
def test_a_private_key_has_32_bytes_and_is_not_repeated_in_the_error(seed: bytes) -> None:
    with pytest.raises(ValueError, match=f"^a private key has 32 bytes, not {len(seed)}$"):
        ed25519.public_key_of(seed)
    with pytest.raises(ValueError, match=f"^a private key has 32 bytes, not {len(seed)}$"):
        ed25519.sign(seed, b"")


def test_new_keys_differ() -> None:
    assert len({ed25519.new_seed() for _ in range(100)}) == 100
    assert len(ed25519.new_seed()) == 32


def test_the_id_of_a_key_is_frozen() -> None:
    assert ed25519.key_id_of(PUBLIC) == "ed25519:dac073e0123bdea5"
