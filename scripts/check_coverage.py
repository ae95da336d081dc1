"""Every branch of the code that verifies evidence is run by its tests, or this fails. `make coverage`, part of `make check`.

A branch that no test takes is a judgement that nobody has seen: here that is a defect, not a number.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

ENGINE = (
    *("allowed_events", "audit_package", "authorization", "bundle_checks", "canonical_json", "case_file"),
    *("chain_check", "checkpoint", "documents", "evidence"),
    *("flight_checks", "flight_shape", "flight_subject", "history", "identity", "in_toto", "integrity", "layers", "likeness"),
    *("log_check", "log_evidence"),
    *("merkle", "past", "router_record", "run_evidence", "signatures", "story", "tiles", "tree_check", "verification"),
)
PRODUCT = (
    *("ed25519", "reader", "trust", "trust_file", "attestation/inclusion", "attestation/witness"),
    *("attestation/local_witness", "attestation/stamp"),
    *("attestation/tsa/authority", "attestation/tsa/der", "attestation/tsa/evidence", "attestation/tsa/judge", "attestation/tsa/token"),
    *("attestation/xrpl/batch_receipt", "attestation/xrpl/codec", "attestation/xrpl/ledger_header", "attestation/xrpl/ledger_tree"),
    *("attestation/xrpl/proof", "attestation/xrpl/proof_check", "attestation/xrpl/validators"),
)

TESTS = (
    # Those of time-stamps need the program `openssl`.
    *("test_attestation_stamp_proofs", "test_attestation_stamping", "test_attestation_tsa"),
    *("test_attestation_batch_tree", "test_attestation_every_byte", "test_attestation_xrpl_capture", "test_attestation_xrpl_proof"),
    *("test_attestation_xrpl_signer", "test_cli_proofs"),
    *("test_allowed_events", "test_attacks", "test_audit_package", "test_bundle", "test_checkpoint", "test_cli_cases", "test_ed25519"),
    *("test_evidence", "test_flight_checks", "test_identity", "test_likeness", "test_log", "test_log_checkpoints", "test_merkle"),
    *("test_canonical_json", "test_execution", "test_integrity", "test_past", "test_reader_knowledge", "test_tamper_index"),
    *("test_tamper_store", "test_tamper_types"),
    *("test_router_flight_record", "test_tamper_package", "test_trust", "test_trust_file"),
)


def main() -> int:
    """Run the tests of the verification code under coverage; the exit code is that of the first step that fails."""
    modules = [f"nexus_control/{name}.py" for name in ENGINE] + [f"nexus_attest/{name}.py" for name in PRODUCT]
    if missing := [name for name in modules if not (ROOT / name).is_file()]:
        print(f"named here and not there: {', '.join(missing)}", file=sys.stderr)
        return 1
    tests = [f"tests/{name}.py" for name in TESTS]
    commands = (
        # One seed: a branch that only some random inputs reach is not shown by a run in which they came.
        [sys.executable, "-m", "pytest", "-q", "--no-header", "--hypothesis-seed=0", "--cov", "--cov-report=", *tests],
        [sys.executable, "-m", "coverage", "report", f"--include={','.join(modules)}", "--fail-under=100", "--precision=2"],
    )
    return next((code for command in commands if (code := subprocess.run(command, cwd=ROOT, check=False).returncode)), 0)


if __name__ == "__main__":
    sys.exit(main())
