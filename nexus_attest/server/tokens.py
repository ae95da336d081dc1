"""Bearer tokens: this server as an OAuth 2.1 resource server (RFC 6750, RFC 9068, RFC 8707, RFC 9728).

A token is a JWT that one issuer signed, for this server and nobody else, and that has not expired. Only asymmetric algorithms are
taken, each only with a key of its kind. A token that is bound to a key of its bearer (`cnf`: DPoP, mutual TLS) is refused, because
taking it without proof of that key would undo the binding. Tokens are verified, never passed on, and never logged.

Loaded only by a server that takes tokens: the libraries behind it take their time.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx
import jwt
from mcp.server.auth.provider import AccessToken

from nexus_attest.server.callers import SCOPES
from nexus_attest.server.errors import NotAuthenticated, ServerConfigError
from nexus_control.errors import FileRefused
from nexus_control.files import read_file

__all__ = ["KeySet", "TokenAccess"]

_ALGORITHMS: Mapping[str, frozenset[str]] = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "EC": frozenset({"ES256", "ES384", "ES512"}),
    "OKP": frozenset({"EdDSA"}),
}
"""By type of key (RFC 7518 section 6.1, RFC 8037)."""

_TYPES = {"jwt", "at+jwt", "application/at+jwt"}
"""Values of `typ`, in lowercase: RFC 9068 section 2.1, and what older issuers write."""

_NO_CLIENT = ""
"""Of a token that does not say whose client has it: nobody's subject, so that its bearer is never taken for a system."""

_MOST_TOKEN_CHARACTERS = 16_384
_MOST_KEY_SET_BYTES = 1024 * 1024
_LEEWAY_SECONDS = 30
_FETCH_SECONDS = 5.0
_FRESH_SECONDS = 600.0
_STALE_SECONDS = 86_400.0
_RETRY_SECONDS = 10.0

_log = logging.getLogger("nexus_attest.server")


class KeySet:
    """The issuer's public keys: a JWK Set (RFC 7517 section 5) from a file or a URL.

    Read again after ten minutes, and when a token names a key that is not in it, at most every ten seconds. When that fails, the keys
    that are known hold for one more day. Raises ServerConfigError for a file that is no such set, holds a secret or private key, or has
    none that can be used, and for a URL that is not https (loopback: http will do).
    """

    def __init__(self, source: str) -> None:
        self._keys: list[dict[str, Any]] = []
        self._read_at = self._tried_at = float("-inf")
        self._lock = anyio.Lock()
        self._url = source if source.partition("://")[1] else None
        if self._url is None:
            self._path = Path(source)
            self._keys = self._from_file()
        else:
            require_https(self._url, "the key set")

    async def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The one key for a token with this `kid` and `alg`, None when there is none, or no single one."""
        now = anyio.current_time()
        found = self._matching(key_id, algorithm) if now - self._read_at <= _FRESH_SECONDS else []
        if not found:
            await self._read_again()
            found = self._matching(key_id, algorithm)
        if len(found) != 1:
            return None
        try:
            return jwt.PyJWK(found[0], algorithm)
        except jwt.PyJWTError as problem:
            _log.warning("a key of the issuer cannot be used: %s", type(problem).__name__)
            return None

    def _matching(self, key_id: str | None, algorithm: str) -> list[dict[str, Any]]:
        return [
            key
            for key in self._keys
            if (key_id is None or key.get("kid") == key_id) and algorithm in _ALGORITHMS[key["kty"]] and key.get("alg") in (None, algorithm)
        ]

    async def _read_again(self) -> None:
        async with self._lock:
            now = anyio.current_time()
            if now - self._tried_at < _RETRY_SECONDS:
                return
            self._tried_at = now
            try:
                self._keys = self._from_file() if self._url is None else await self._fetched(self._url)
                self._read_at = now
            except (ServerConfigError, httpx.HTTPError, TimeoutError) as problem:
                if now - self._read_at > _STALE_SECONDS:
                    self._keys = []
                text = str(problem) or type(problem).__name__
                _log.error("the issuer's keys cannot be read", extra={"facts": {"problem": text, "keys_left": len(self._keys)}})

    def _from_file(self) -> list[dict[str, Any]]:
        try:
            return _usable_keys(read_file(self._path, _MOST_KEY_SET_BYTES))
        except FileRefused as problem:
            raise ServerConfigError(f"the key set: {problem}") from None

    async def _fetched(self, url: str) -> list[dict[str, Any]]:
        body = b""
        with anyio.fail_after(_FETCH_SECONDS):  # for the whole of it: all who have a token wait
            async with httpx.AsyncClient(timeout=None) as client, client.stream("GET", url) as response:
                response.raise_for_status()
                if not response.is_success:  # a redirect: whoever may change where keys come from may sign tokens
                    raise ServerConfigError(f"{url} answers {response.status_code}")
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_KEY_SET_BYTES:
                        raise ServerConfigError(f"{url} gives more than {_MOST_KEY_SET_BYTES} bytes")
        return _usable_keys(body)


def _usable_keys(text: bytes) -> list[dict[str, Any]]:
    try:
        document: Any = json.loads(text)
        found: Any = document["keys"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise ServerConfigError('the key set is no JWK Set, {"keys": [...]}') from None
    if not isinstance(found, list):
        raise ServerConfigError('the key set is no JWK Set, {"keys": [...]}')
    keys = [cast("dict[str, Any]", key) for key in cast("list[object]", found) if isinstance(key, dict)]
    if any(key.get("kty") == "oct" or "d" in key for key in keys):
        raise ServerConfigError("the key set holds a secret or private key; a server that verifies must not have it")
    usable = [key for key in keys if isinstance(kind := key.get("kty"), str) and kind in _ALGORITHMS and key.get("use") in (None, "sig")]
    if not usable:
        raise ServerConfigError("the key set has no key for signatures")
    return usable


@dataclass(frozen=True)
class TokenAccess:
    """Whose tokens this server takes: those of `issuer` for `resource`, the URL of this server as its clients know it.

    Implements the SDK's `TokenVerifier`. Raises ServerConfigError for URLs that cannot be such.
    """

    issuer: str
    resource: str
    keys: KeySet

    def __post_init__(self) -> None:
        require_https(self.issuer, "the issuer")
        require_https(self.resource, "the audience")

    @cached_property
    def host(self) -> str:
        """The `Host` header of requests to `resource`."""
        return urlsplit(self.resource).netloc

    @cached_property
    def origin(self) -> str:
        """The `Origin` header of pages from the same place."""
        return f"{urlsplit(self.resource).scheme}://{self.host}"

    async def verify_token(self, token: str) -> AccessToken | None:
        """What the token allows whom, None when it is not to be believed; the log says why."""
        try:
            return self._believed(token, await self._claims(token))
        except (jwt.PyJWTError, NotAuthenticated) as problem:
            _log.warning("a token was refused", extra={"facts": {"reason": str(problem)[:200] or type(problem).__name__}})
            return None

    async def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > _MOST_TOKEN_CHARACTERS:
            raise NotAuthenticated(f"it has more than {_MOST_TOKEN_CHARACTERS} characters")
        header = jwt.get_unverified_header(token)
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ")
        if not isinstance(algorithm, str) or algorithm not in {name for names in _ALGORITHMS.values() for name in names}:
            raise NotAuthenticated(f"algorithm {algorithm!r:.40} is not taken")
        if kind is not None and (not isinstance(kind, str) or kind.lower() not in _TYPES):
            raise NotAuthenticated(f"a token of type {kind!r:.40} is no access token")
        key = await self.keys.find(key_id, algorithm)
        if key is None:
            raise NotAuthenticated(f"the issuer has no key {key_id!r:.100} for {algorithm}")
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self.resource,
            issuer=self.issuer,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["iss", "sub", "aud", "exp"], "enforce_minimum_key_length": True},
        )

    def _believed(self, token: str, claims: dict[str, Any]) -> AccessToken:
        if "cnf" in claims:
            raise NotAuthenticated("it is bound to a key of its bearer, which this server cannot ask for")
        if not claims["sub"]:
            raise NotAuthenticated("its subject is empty")
        given = claims.get("scope", claims.get("scp", ""))
        words = given.split() if isinstance(given, str) else cast("list[object]", given) if isinstance(given, list) else []
        client = next((claims[name] for name in ("client_id", "azp") if isinstance(claims.get(name), str)), _NO_CLIENT)
        return AccessToken(
            token=token,
            client_id=client,
            scopes=[scope for scope in SCOPES if scope in words],
            expires_at=int(claims["exp"]) + _LEEWAY_SECONDS,
            resource=self.resource,
            subject=claims["sub"],
            claims=claims,
        )


def require_https(url: str, what: str) -> None:
    """Raise ServerConfigError unless a URL is https, or http to this very machine, and names a host and no fragment (RFC 8707)."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    local = host in ("localhost", "127.0.0.1", "::1")
    if not host or parts.fragment or parts.username is not None or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise ServerConfigError(f"{what} {url!r:.200} must be an https URL (http on this machine), without fragment or user")
