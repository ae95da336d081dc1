"""Commands around signed attestations: attest sign, attest verify."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import ForceOption, KeysOption, OutputOption, command, group

if TYPE_CHECKING:
    from nexus_attest.attestation import Attestation
    from nexus_attest.cli.session import Session
    from nexus_attest.trust import PublicKey

__all__ = ["binding_digest_of", "register"]

_MAX_BYTES = 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    attest = group("Attestations: somebody's signature over an audit package, and what is claimed about it.")
    command(attest, "sign", db=False)(_sign)
    command(attest, "verify", db=False, trust=True)(_verify)
    app.add_typer(attest, name="attest")


def _sign(
    session: "Session",
    file: Annotated[Path, typer.Argument(help="An audit package or a case file; - is standard input.", metavar="FILE", show_default=False)],
    claim: Annotated[list[str], typer.Option(metavar="TEXT", help="What you claim about it. Repeatable.", show_default=False)],
    key: Annotated[
        str, typer.Option(metavar="KEY", help="Which key signs: a name, a file, env:NAME or program:COMMAND.", show_default=False)
    ],
    attestor: Annotated[
        str, typer.Option(metavar="NAME", help="Who you are, as trust policies name you under [[attestors]].", show_default=False)
    ],
    role: Annotated[str | None, typer.Option(metavar="TEXT", help="Your role; told beside the signature, not under it.")] = None,
    keys: KeysOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Sign what you claim about an audit package that is consistent with itself. The package is not changed.

    `nexus-attest case export --attestation FILE` puts the attestation into a case file.
    """
    from nexus_attest.attestation import Attestor  # the attestation side
    from nexus_attest.attestation._signing import sign_attestation
    from nexus_attest.cli import settings
    from nexus_attest.cli.files import read_file
    from nexus_attest.cli.output import write_document
    from nexus_attest.cli.report import note
    from nexus_attest.cli.signing import passphrase
    from nexus_attest.signer import open_signer
    from nexus_control.markdown import printable

    binding_digest = binding_digest_of(read_file(file))
    signer = open_signer(key, settings.keys_path(keys), passphrase)
    # On standard error, so that it is seen also when the attestation goes to standard output: nobody signs blindly.
    note("\n".join(["Signing: attestation", f"  package   {binding_digest}", *(f"  claim     {printable(text)}" for text in claim)]))
    made = sign_attestation(binding_digest, claim, Attestor(attestor, signer.key_id, role), signer)
    path = Path(f"{made.attestation_id}.json") if output is None else output
    about = {"kind": "attestation", "digest": binding_digest, "attestation_id": made.attestation_id, "key_id": signer.key_id}
    write_document(session, path, made.to_dict(), about, force=force)


def _verify(
    session: "Session",
    file: Annotated[Path, typer.Argument(help="The attestation; - is standard input.", metavar="FILE", show_default=False)],
    package: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The audit package or case file that it must be about.", show_default=False)
    ] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="The binding digest that it must be about, sha256:...", show_default=False)
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="The key that must have signed it, instead of the trust policy's.", show_default=False),
    ] = None,
) -> None:
    """Judge an attestation: who signed it, about which package, and whether the trust policy believes that key at that time.

    The public key inside the file is never used: whoever made the file chose it.
    """
    from nexus_attest.attestation import Attestation, public_key_from_hex, verify_attestation_signature  # the attestation side
    from nexus_attest.cli.files import read_file
    from nexus_control.json_data import object_of, parse_json
    from nexus_control.verification import VerificationCheck

    if package is not None and expect is not None:
        raise typer.BadParameter("give the package or its digest, not both", param_hint="--expect")
    attestation = Attestation.from_dict(object_of(parse_json(read_file(file, _MAX_BYTES)), "attestation"))
    wanted = expect if package is None else binding_digest_of(read_file(package))
    trusted = _trusted_key(session, attestation) if public_key is None else None
    key = public_key_from_hex(trusted.public_key.hex() if trusted is not None else str(public_key))
    checks = list(verify_attestation_signature(attestation, key, expected_binding_digest=wanted, strict=True).checks)
    if trusted is not None:
        problem = _validity_problem(trusted, attestation)
        checks.append(VerificationCheck("key_valid", ok=problem is None, detail=problem))
    failed = [check.name for check in checks if not check.ok]
    data: dict[str, Any] = {
        "attestation_id": attestation.attestation_id,
        "binding_digest": attestation.payload.binding_digest,
        "attestor": attestation.payload.attestor.id,
        "key_id": attestation.payload.attestor.key_id,
        "claims": list(attestation.payload.claims),
        "signed_at": attestation.payload.signed_at,
        "failed": failed,
        "checks": [check.to_dict() for check in checks],
    }
    if failed:
        session.fail("VERIFICATION_FAILED", f"failed: {', '.join(failed)}", data, lambda: _say(session, data, checks))
    session.show(data, lambda: _say(session, data, checks))


def binding_digest_of(content: bytes) -> str:
    """The binding digest of an audit package or case file that is consistent with itself. Raises MalformedBundle."""
    from nexus_control.documents import read_document, verify_document  # the engine
    from nexus_control.errors import MalformedBundle

    document = read_document(content)
    report = verify_document(document)
    if not report.ok:
        failed = ", ".join(check.name for check in report.result.checks if not check.ok)
        raise MalformedBundle(f"the file is not consistent with itself: {failed}")
    if document.kind == "decision_bundle":
        raise MalformedBundle("a decision bundle has no binding digest; `nexus-attest audit export` makes an audit package")
    return str(document.data["integrity"]["binding_digest"])


def _trusted_key(session: "Session", attestation: "Attestation") -> "PublicKey":
    """The key that the trust policy has for this attestor. Raises VerifierMissing without a policy, KeyUnknown."""
    from nexus_attest.key_errors import KeyUnknown  # the engine's errors
    from nexus_control.errors import VerifierMissing

    attestor = attestation.payload.attestor
    if session.trust is None:
        raise VerifierMissing("an attestation is judged with a trust policy, or with --public-key")
    for known in session.trust.attestors:
        if (known.attestor_id, known.key.key_id) == (attestor.id, attestor.key_id):
            return known.key
    raise KeyUnknown(f"the trust policy names no attestor {attestor.id!r:.80} with the key {attestor.key_id!r:.80}")


def _validity_problem(key: "PublicKey", attestation: "Attestation") -> str | None:
    from nexus_attest.key_errors import KeyExpired, KeyNotYetValid, KeyRetired  # the engine's errors
    from nexus_control.errors import MalformedEvent
    from nexus_control.events import parse_time

    try:
        key.require_valid(parse_time(attestation.payload.signed_at), "used")
    except (MalformedEvent, KeyExpired, KeyNotYetValid, KeyRetired) as problem:
        return str(problem)
    return None


def _say(session: "Session", data: dict[str, Any], checks: list[Any]) -> None:
    from nexus_attest.cli.screen import checks_table, verdict  # rich
    from nexus_control.markdown import printable

    lines = [f"Attestation {printable(data['attestation_id'])}", f"  by      {printable(data['attestor'])}, {printable(data['key_id'])}"]
    lines += [f"  about   {printable(data['binding_digest'])}", f"  signed  {printable(data['signed_at'])}"]
    lines += [f"  claim   {printable(claim)}" for claim in data["claims"]]
    session.say("\n".join([*lines, ""]))
    session.screen.print(checks_table(checks), "", verdict(not data["failed"], "this key signed it", ", ".join(data["failed"])))
