"""The client of a time-stamp authority (RFC 3161) over HTTP: one request for a statement, one answer, which is verified before it is kept.

No account and no key is needed. The authority learns a hash of root and size of a batch, and nothing else. Most authorities speak plain
HTTP: what protects a token is its signature, and the nonce, which makes an old answer useless.
"""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.attestation.errors import AuthorityUnavailable, NotATimestamp, WitnessMismatch, WitnessRefused
from nexus_attest.attestation.stamp import Shown
from nexus_attest.attestation.tsa.evidence import TimestampEvidence, failures, judge_timestamp, require_extra
from nexus_attest.attestation.tsa.token import MAX_TOKEN_BYTES, Answer, Token
from nexus_attest.trust import Authority
from nexus_control import __version__
from nexus_control.errors import InputError
from nexus_control.events import Clock, in_utc, utc_now
from nexus_control.markdown import printable

if TYPE_CHECKING:
    import httpx

__all__ = ["TSA_BACKEND", "TimestampAuthority"]

TSA_BACKEND = "tsa"

_QUERY = "application/timestamp-query"
_REPLY = "application/timestamp-reply"
_GRANTED = (0, 1)
"""PKIStatus granted, and granted with modifications, which the checks would notice (RFC 3161 section 2.4.2)."""

_PASSING = frozenset({"timeNotAvailable", "systemFailure"})
_TEXT_CHARACTERS = 200


class TimestampAuthority:
    """One authority at a URL, believed as `authority` says. A `StampingWitness`.

    `timeout` is in seconds for a whole request; `clock_skew` in seconds how far its time may be from ours. Raises ExtraMissing, and
    InputError for a URL that is none of HTTP.
    """

    backend = TSA_BACKEND

    def __init__(self, url: str, authority: Authority, *, timeout: float = 15.0, clock_skew: float = 300.0, clock: Clock = utc_now) -> None:
        require_extra()
        if not url.startswith(("http://", "https://")):
            raise InputError(f"the URL of a time-stamp authority begins with http:// or https://, not {url!r:.100}")
        self.name = authority.name
        self._url = url
        self._authority = authority
        self._timeout = timeout
        self._clock_skew = timedelta(seconds=clock_skew)
        self._clock = in_utc(clock)

    async def witness(self, statement: Statement) -> bytes:
        """A time-stamp for the statement, as evidence.

        Raises AuthorityUnavailable when there is no answer, and WitnessRefused when the authority refuses, or gives a token that those who
        believe it would not believe, or whose time is not ours.
        """
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder  # the client library, loaded where it is used

        request = TimestampRequestBuilder().data(statement.to_bytes()).hash_algorithm(HashAlgorithm.SHA256).build()
        try:
            answer = Answer.from_bytes(await self._post(request.as_bytes()))
        except NotATimestamp as problem:
            raise self._unavailable(f"no answer of a time-stamp authority: {problem}") from None
        if answer.status not in _GRANTED or answer.token is None:
            raise self._refused(answer)
        evidence = TimestampEvidence(statement, request.nonce or 0, answer.token)
        self._require_good(evidence)
        return evidence.to_bytes()

    def verify(self, statement: Statement, evidence: bytes) -> Shown:
        """Level `authority`. Raises WitnessMismatch, which names the checks that failed."""
        try:
            found = TimestampEvidence.from_bytes(evidence)
        except NotATimestamp as problem:
            raise WitnessMismatch(f"evidence: {problem}") from None
        if found.statement != statement:
            raise WitnessMismatch("statement: the evidence is about something else")
        checks, shown = judge_timestamp(found, self._authority)
        if shown is None:
            raise WitnessMismatch(failures(checks))
        return shown

    def _require_good(self, evidence: TimestampEvidence) -> None:
        checks, shown = judge_timestamp(evidence, self._authority)
        if shown is None:
            raise WitnessRefused(f"{self.name}: its time-stamp is not to be believed: {failures(checks)}")
        off = Token(evidence.token).stamp.time - self._clock()
        if abs(off) > self._clock_skew:
            raise WitnessRefused(f"{self.name}: its clock is {off.total_seconds():.0f} seconds ahead of ours (negative: behind)")

    async def _post(self, body: bytes) -> bytes:
        import httpx  # as above

        headers = {"content-type": _QUERY, "accept": _REPLY, "accept-encoding": "identity", "user-agent": f"nexus-attest/{__version__}"}
        try:
            async with (
                asyncio.timeout(self._timeout),
                httpx.AsyncClient(timeout=self._timeout) as client,
                client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                return await self._body(response)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, UnicodeError) as problem:
            raise self._unavailable(str(problem) or type(problem).__name__) from None

    async def _body(self, response: "httpx.Response") -> bytes:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code != 200 or kind != _REPLY:
            raise self._unavailable(f"status {response.status_code} and content type {kind!r:.60} in place of a time-stamp")
        found = bytearray()
        async for chunk in response.aiter_raw():
            found += chunk
            if len(found) > MAX_TOKEN_BYTES:
                raise self._unavailable(f"an answer of more than {MAX_TOKEN_BYTES} bytes")
        return bytes(found)

    def _refused(self, answer: Answer) -> AuthorityUnavailable | WitnessRefused:
        told = ", ".join((f"status {answer.status}", *answer.failure, *([answer.text] if answer.text else [])))
        if _PASSING.intersection(answer.failure):
            return self._unavailable(told)
        return WitnessRefused(f"{self.name} gives no time-stamp: {printable(told[:_TEXT_CHARACTERS])}")

    def _unavailable(self, reason: str) -> AuthorityUnavailable:
        return AuthorityUnavailable(f"{self.name}: {printable(reason[:_TEXT_CHARACTERS])}")
