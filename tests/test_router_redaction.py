"""What is secret is found, marked and listed; what is not stays as it is."""

import base64
import json
from time import process_time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_attest import redaction
from nexus_attest.redaction import NO_SECRETS, Redactor, literal_secrets, parse_pointer, passwords_of

SECRET = 'p\u00e4ss "word"/+?'
REDACTOR = Redactor({"phrase": SECRET, "pin": "4711", "key": "-----\nfirst-line-of-key\nsecond-line-of-key\n"})

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_secret_is_found_in_every_spelling(spelling: str) -> None:
    assert "[redacted:secret phrase]" in REDACTOR.text(f"before {spelling} after")
    assert "word" not in REDACTOR.text(f"before {spelling} after")


def test_a_secret_of_several_lines_is_found_line_by_line() -> None:
    assert REDACTOR.text("got second-line-of-key!") == "got [redacted:secret key]!"
    assert REDACTOR.text("-----") == "-----"


def test_a_secret_within_a_secret_hides_nothing() -> None:
    redactor = Redactor({"short": "abc", "long": "xabcx"})
    assert redactor.text("xabcx abc") == "[redacted:secret long] [redacted:secret short]"


def test_a_mark_is_not_marked_again() -> None:
    assert Redactor({"a": "redacted", "b": "e"}).text("redacted e") == "[redacted:secret a] [redacted:secret b]"


def test_numbers_members_and_names_are_cleaned_and_listed() -> None:
    output = {"n": 4711, "m": 47110, "list": [{"4711": True}, "code 4711"], "deep": {"ok": None}}
    cleaned, found = REDACTOR.output(output)
    assert cleaned == {
        "n": "[redacted:secret pin]",
        "m": 47110,
        "list": [{"[redacted:secret pin]": True}, "code [redacted:secret pin]"],
        "deep": {"ok": None},
    }
    assert found == ("/n", "/list/0/[redacted:secret pin]", "/list/1")


def test_two_names_that_become_one_mark_lose_no_member() -> None:
    redactor = Redactor({"a": "one", "b": "two"})
    cleaned, _ = redactor.output({"one": 1, "[redacted:secret a]": 2, "two": 3})
    assert sorted(cleaned.values(), key=str) == [1, 2, 3]


def test_configured_places_are_taken_out_whatever_is_there() -> None:
    redactor = Redactor({}, [parse_pointer(text) for text in ("/user/mail", "/users/*/mail", "/a~1b/~0", "/list/1")])
    output = {
        "user": {"mail": {"x": 1}, "name": "a"},
        "users": [{"mail": "m"}, {"id": 2}, {"mail": None}],
        "a/b": {"~": 1},
        "list": [1, 2, 3],
    }
    cleaned, found = redactor.output(output)
    mark = "[redacted:configured]"
    assert cleaned == {
        "user": {"mail": mark, "name": "a"},
        "users": [{"mail": mark}, {"id": 2}, {"mail": mark}],
        "a/b": {"~": mark},
        "list": [1, mark, 3],
    }
    assert found == ("/user/mail", "/users/0/mail", "/users/2/mail", "/a~1b/~0", "/list/1")


@pytest.mark.parametrize("text", ["", "a", "a/b", "/a~", "/a~2"])
def test_what_is_no_pointer_to_a_member_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no JSON pointer"):
        parse_pointer(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("AKIA" + "A1B2C3D4E5F6G7H8", "aws-access-key"),
        ("ghp_" + "a" * 36, "github-token"),
        ("github_pat_" + "a1" * 20, "github-token"),
        ("glpat-" + "a" * 20, "gitlab-token"),
        ("xoxb-1234567890-abc", "slack-token"),
        ("AIza" + "b" * 35, "google-api-key"),
        ("sk_live_" + "a" * 24, "stripe-key"),
        ("sk-proj-" + "a" * 40, "api-key"),
        ("npm_" + "a" * 36, "npm-token"),
        ("hf_" + "a" * 34, "hugging-face-token"),
        ("sEd" + "V" * 28, "xrpl-seed"),
        ("snoPBrXtMeMyMHUVTgbuqAfg1SUTb", "xrpl-seed"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0xxx.c2lnbmF0dXJl", "json-web-token"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----", "private-key"),
        ("-----BEGIN PRIVATE KEY-----\nMIIabc", "private-key"),
    ],
)
def test_well_known_credentials_are_found_by_their_look(text: str, reason: str) -> None:
    assert NO_SECRETS.text(text) == f"[redacted:{reason}]"
    assert NO_SECRETS.text(f"({text})") in (f"([redacted:{reason}])", f"([redacted:{reason}]")
    assert literal_secrets({"note": f"use {text}"}) == ["/note"]


def test_credentials_in_headers_and_urls_are_found() -> None:
    assert NO_SECRETS.text("Authorization: Bearer abcdefghijklmnop") == "Authorization: Bearer [redacted:authorization]"
    assert NO_SECRETS.text("https://bob:hunter2@host/x") == "https://[redacted:url-password]@host/x"


@pytest.mark.parametrize("password", ["hunter2", "hunt:er2", "hunt@er2", "h:u@n:t@"])
def test_a_password_in_a_url_is_found_whole(password: str) -> None:
    assert NO_SECRETS.text(f"at postgres://bob:{password}@host/x") == "at postgres://[redacted:url-password]@host/x"
    assert passwords_of(f'{{"url":"postgres://bob:{password}@host","mail":"a@b"}}') == [password]


@pytest.mark.parametrize(
    "text",
    [
        "sha256:" + "ab" * 32,
        "AKIAshort",
        "xghp_" + "a" * 36,
        "XAKIA" + "A1B2C3D4E5F6G7H8",
        "risk-" + "a" * 40,
        "xnpm_" + "a" * 36,
        "1hf_" + "a" * 34,
        "usEd" + "V" * 28,
        "xsnoPBrXtMeMyMHUVTgbuqAfg1SUTb",
        "-eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0xxx.c2lnbmF0dXJl",
        "a sk- b",
        "https://host/a:b",
        "tokens",
        "straightforwardcounterexampLe",
        "eyJ.eyJ.x",
        "Bearer of news",
    ],
)
def test_what_looks_like_nothing_stays(text: str) -> None:
    assert NO_SECRETS.text(text) == text


@given(JSON)
def test_without_a_find_an_output_stays_the_same(value: Any) -> None:
    output = {"v": value}
    assert Redactor({"x": "\ue000 never"}).output(output) == (output, ())


@given(JSON, st.text(min_size=4, max_size=7))
def test_no_secret_survives_in_any_text(value: Any, secret: str) -> None:
    cleaned, _ = Redactor({"x": secret}).output({"v": value, secret: [secret, f"a{secret}b"]})
    marks = json.dumps(cleaned, ensure_ascii=False).replace("[redacted:secret x]", "\0")
    pieces = [piece for piece in marks.split("\0") if json.dumps(secret, ensure_ascii=False)[1:-1] in piece]
    # What is left are the quotes and commas of JSON itself, `true`, `null`, and numbers between two names.
    assert not pieces or set(secret) <= set('{}[]",: 0123456789truefalsnvx-\\')


def test_cleaning_takes_linear_time() -> None:
    for hostile in (
        "-----BEGIN PRIVATE KEY-----" * 20_000,
        "eyJ" * 200_000,
        "://" * 200_000,
        "://a:" * 100_000,
        "://a:" + "b@" * 100_000,
        "://a:b@" * 50_000,
        "s" * 300_000,
        "sA1" * 100_000,
        "Bearer " * 100_000,
        "xox" * 200_000,
    ):
        assert len(NO_SECRETS.text(hostile)) > 0


def test_thousands_of_names_that_become_one_mark_take_linear_time() -> None:
    began = process_time()
    cleaned, found = NO_SECRETS.output({f"AKIA{number:016d}": number for number in range(40_000)})
    assert process_time() - began < 10
    assert list(cleaned.values()) == list(range(40_000))
    assert len(found) == 40_000


# Literal secrets in plans.


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({"password": "x"}, ["/password"]),
        ({"dbPassword": "x", "db": {"API_KEY": "y"}}, ["/dbPassword", "/db/API_KEY"]),
        ({"credentials": {"user": "u", "list": ["p"]}}, ["/credentials/user", "/credentials/list/0"]),
        ({"pin": 4711, "token": True, "secret": "", "auth": None}, ["/pin"]),
        (
            {"APIKey": "x", "clientSecret": "y", "private-key": "z", "X-Auth-Token": "t"},
            ["/APIKey", "/clientSecret", "/private-key", "/X-Auth-Token"],
        ),
        ({"password": {"$secret": "name"}}, []),
        ({"max_tokens": 5, "next_token": "a", "pageToken": "b", "key": "k", "keys": ["k"], "secretary": "s", "tokenizer": "t"}, []),
        ({"ghp_" + "a" * 36: 1}, ["/[redacted:github-token]"]),
    ],
)
def test_what_looks_like_a_secret_in_arguments_is_named(args: dict[str, object], found: list[str]) -> None:
    assert literal_secrets(args) == found


SHORTEST: list[tuple[str, str]] = [
    ("-----BEGIN PRIVATE KEY-----", "private-key"),
    ("AKIA" + "Z" * 16, "aws-access-key"),
    ("ghp_" + "a" * 36, "github-token"),
    ("github_pat_" + "a" * 22, "github-token"),
    ("glpat-" + "a" * 20, "gitlab-token"),
    ("xoxb-" + "1" * 10, "slack-token"),
    ("AIza" + "a" * 35, "google-api-key"),
    ("sk_live_" + "a" * 16, "stripe-key"),
    ("sk-" + "a" * 32, "api-key"),
    ("npm_" + "a" * 36, "npm-token"),
    ("pypi-AgE" + "a" * 50, "pypi-token"),
    ("hf_" + "a" * 30, "hugging-face-token"),
    ("sEd" + "T" * 26, "xrpl-seed"),
    ("sn3" + "N" * 25, "xrpl-seed"),
    ("eyJ" + "a" * 10 + ".eyJ" + "a" * 10 + "." + "a" * 10, "json-web-token"),
    ("Bearer " + "a" * 16, "authorization"),
    ("://:p@", "url-password"),
]


@pytest.mark.parametrize(("credential", "reason"), SHORTEST, ids=[reason + str(len(text)) for text, reason in SHORTEST])
def test_the_shortest_credential_of_a_kind_is_found_where_it_stands_alone(credential: str, reason: str) -> None:
    assert f"[redacted:{reason}]" in NO_SECRETS.text(credential)
    shorter = credential[:-2] + credential[-1]
    assert NO_SECRETS.text(shorter) == shorter


def test_the_shortest_credential_of_every_kind_is_tried() -> None:
    known = [(reason, least) for reason, least, _, _ in redaction._CREDENTIALS]  # pyright: ignore[reportPrivateUsage]
    assert known == [(reason, len(credential)) for credential, reason in SHORTEST]
