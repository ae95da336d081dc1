"""An issuer of tokens for tests: its keys, its key set, and JWTs of every kind that it should and should not sign."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from nexus_control.events import utc_now

__all__ = ["AUDIENCE", "ISSUER", "Issuer"]

ISSUER = "https://login.example"
AUDIENCE = "https://nexus.example/mcp"

Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass
class Issuer:
    """One private key, P-256 unless the test says otherwise, and its public half under the id `kid`."""

    key: Private = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    kid: str = "key-1"

    @property
    def algorithm(self) -> str:
        """What it signs with."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            return "RS256"
        return "ES256" if isinstance(self.key, ec.EllipticCurvePrivateKey) else "EdDSA"

    def jwk(self, **more: Any) -> dict[str, Any]:
        """The public key as a JWK."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            text = RSAAlgorithm.to_jwk(self.key.public_key())
        elif isinstance(self.key, ec.EllipticCurvePrivateKey):
            text = ECAlgorithm.to_jwk(self.key.public_key())
        else:
            text = OKPAlgorithm.to_jwk(self.key.public_key())
        return {**json.loads(text), "kid": self.kid, **more}

    def key_set(self) -> str:
        """The key set that it publishes."""
        return json.dumps({"keys": [self.jwk()]})

    def token(self, subject: str = "alice", scope: object = "read request approve execute admin", **changes: Any) -> str:
        """A token for `AUDIENCE`; a claim of None in `changes` is left out."""
        return self.sign(self.claims(subject, scope, **changes))

    def claims(self, subject: str = "alice", scope: object = "read", **changes: Any) -> dict[str, Any]:
        """What such a token says."""
        now = int(utc_now().timestamp())
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": AUDIENCE,
            "exp": now + 600,
            "iat": now,
            "client_id": "agent",
            "scope": scope,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def sign(self, claims: Mapping[str, Any], key: object = None, algorithm: str | None = None, **header: Any) -> str:
        """The claims as a JWT, signed with its own key or another."""
        signing: Any = self.key if key is None else key
        return jwt.encode(dict(claims), signing, algorithm or self.algorithm, headers={"kid": self.kid, "typ": "at+jwt", **header})
