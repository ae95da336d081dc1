"""The router's record of a run, as it is embedded in an audit package: what it says about itself, and whether its content bears that out.

Two shapes are understood, both of the run bundle format 0.3 of nexus-router: the run bundle (`run`, `events`, `digests.sha256`) and the
flight record, a run bundle with the `response` that the router returned. Any other record is carried but cannot be judged.
Outside of every digest: `bundle_version`, `exported_at`, and members that the format does not name.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, cast

from nexus_control.errors import MalformedBundle
from nexus_control.integrity import Digest, content_digest, digests_equal, prefixed, sha256_digest
from nexus_control.json_encoder import compact_encoder
from nexus_control.verification import Finding

__all__ = [
    "RouterDigestFn",
    "content_findings",
    "prefixed_if_any",
    "router_run_digest",
    "router_text",
    "stated_digest",
    "stated_run_digest",
    "stated_run_ids",
]

RouterDigestFn: TypeAlias = Callable[[dict[str, Any]], str]
"""Gives the digest, raw or prefixed, that a router's own format assigns to its embedded record."""


def prefixed_if_any(raw: str | None) -> Digest | None:
    """A digest of a run, as events have it, in the form of bundles: a run may have left none."""
    return None if raw is None else prefixed(raw)


def router_text(value: object) -> str:
    """The JSON text that routers hash: the standard library's, with sorted keys, compact separators, ASCII escapes, Python's floats.

    It is deliberately not canonical JSON and shares nothing with it. NaN and infinities, which nexus-router lets through, are written as
    it writes them. Raises ValueError, TypeError or RecursionError for what json.dumps cannot write.
    """
    # Without a search for cycles, which parsed JSON has none of; in anything else they end as RecursionError.
    return "".join(_encode(value, 0))


_encode = compact_encoder(ascii_only=True, allow_nan=True)


def router_run_digest(record: Mapping[str, Any]) -> str:
    """Raw digest of a run: SHA-256 over the `router_text` of its `run` and `events`.

    Raises MalformedBundle when a part is missing or no JSON.
    """
    try:
        text = f'{{"events":{_events_text(record["events"])},"run":{router_text(record["run"])}}}'
    except KeyError as error:
        raise MalformedBundle(f"the run bundle has no {error}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedBundle(f"the run bundle is not JSON: {error}") from None
    return sha256_digest(text.encode())


def _events_text(events: object) -> str:
    """As `router_text`, by pieces that fit into a processor's cache: a tenth faster for long runs."""
    if not isinstance(events, list):
        return router_text(events)
    listed = cast("list[object]", events)
    pieces = (router_text(listed[first : first + _PIECE_EVENTS])[1:-1] for first in range(0, len(listed), _PIECE_EVENTS))
    return f"[{','.join(pieces)}]"


_PIECE_EVENTS = 200


def stated_digest(record: Mapping[str, Any]) -> str | None:
    """`integrity.canonical_digest` of the record, None when there is none."""
    return _text_at(record, "integrity", "canonical_digest")


def stated_run_digest(record: Mapping[str, Any]) -> str | None:
    """`digests.sha256` (raw) of a record that also has `run` and `events`, None for any other."""
    return _text_at(record, "digests", "sha256") if "run" in record and "events" in record else None


def stated_run_ids(record: Mapping[str, Any]) -> dict[str, object]:
    """Every run id that the record gives, by where: its own, that of its run row, that of its response."""
    found: dict[str, object] = {"run_id": record["run_id"]} if "run_id" in record else {}
    for part in ("run", "response"):
        member: object = record.get(part)
        if isinstance(member, dict) and "run_id" in member:
            found[f"{part}.run_id"] = cast("dict[str, object]", member)["run_id"]
    return found


def content_findings(record: dict[str, Any], *, strict: bool, router_digest_fn: RouterDigestFn | None) -> Iterator[Finding]:
    """The content of the record has the digest that it states; for a record that cannot be judged, a remark that fails when `strict`."""
    stored = stated_digest(record)
    if stored is None:
        yield Finding("router.bundle has no integrity.canonical_digest")
        return
    algorithm: object = record["integrity"].get("alg", "sha256")
    if algorithm != "sha256":
        yield Finding("unknown router.bundle.integrity.alg", "sha256", str(algorithm))
    if router_digest_fn is not None:
        yield from _caller_findings(record, stored, router_digest_fn)
    elif "response" in record:
        yield from _response_findings(record, stored, strict=strict)
    elif (run_digest := stated_run_digest(record)) is not None:
        actual = router_run_digest(record)
        yield from _difference("router.bundle.digests.sha256 is not the digest of run and events", run_digest, actual)
        yield from _difference("router.bundle.integrity.canonical_digest is not the digest of run and events", stored, prefixed(actual))
    else:
        yield Finding("the embedded record has no form whose content can be checked against its digest", fails=strict)


def _caller_findings(record: dict[str, Any], stored: str, router_digest_fn: RouterDigestFn) -> Iterator[Finding]:
    try:
        actual: object = router_digest_fn(record)
    except Exception as error:
        # The function is the caller's, the record possibly forged: whatever it trips over is a record that does not verify.
        yield Finding(f"router_digest_fn raised {type(error).__name__}: {error}")
        return
    yield from _difference("router.bundle.integrity.canonical_digest is not what router_digest_fn gives", stored, actual)


def _response_findings(record: dict[str, Any], stored: str, *, strict: bool) -> Iterator[Finding]:
    """The chain of a flight record: canonical_digest -> response -> run_bundle_digest -> run and events."""
    response: object = record["response"]
    if not isinstance(response, dict):
        yield Finding("router.bundle.response is not an object")
        return
    answer = cast("dict[str, object]", response)
    actual = prefixed(content_digest(answer))
    yield from _difference("router.bundle.integrity.canonical_digest is not the digest of response", stored, actual)
    bound, run_digest = answer.get("run_bundle_digest"), stated_run_digest(record)
    if run_digest is not None:
        run = router_run_digest(record)
        yield from _difference("router.bundle.digests.sha256 is not the digest of run and events", run_digest, run)
        if bound is not None:
            yield from _difference("router.bundle.response.run_bundle_digest is not the digest of run and events", bound, prefixed(run))
        else:
            yield Finding("router.bundle.response does not bind run and events", fails=strict)
    elif bound is not None:
        yield Finding("router.bundle lacks the run, events or digests.sha256 that its response binds", str(bound))


def _difference(detail: str, stored: object, actual: object) -> Iterator[Finding]:
    if not digests_equal(stored, actual):
        yield Finding(detail, str(stored), str(actual))


def _text_at(record: Mapping[str, Any], member: str, key: str) -> str | None:
    part: object = record.get(member)
    if not isinstance(part, dict):
        return None
    value: object = cast("dict[str, object]", part).get(key)
    return value if isinstance(value, str) else None
