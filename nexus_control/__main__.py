"""`python -m nexus_control verify FILE`: check a decision bundle or an audit package with nothing but Python.

Exit code 0: every check passed. 1: an unexpected error. 2: invalid arguments, no readable file or document, or a failed check.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nexus_control.errors import FileRefused
from nexus_control.evidence import DocumentReport, verify_document
from nexus_control.files import read_file
from nexus_control.markdown import printable

__all__ = ["main"]

_LIMIT = (
    "The parts of this document belong together. Whoever can change a file can recompute every digest in it: to know that it is the "
    "original, compare its binding digest with one from elsewhere (--expect-binding-digest)."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code. Raises SystemExit(2) for arguments that argparse refuses."""
    parser = argparse.ArgumentParser(prog="python -m nexus_control", description="Check evidence offline.")
    verify = parser.add_subparsers(dest="command", required=True).add_parser("verify", help="verify a decision bundle or an audit package")
    verify.add_argument("file", type=Path, metavar="FILE", help="JSON document, a regular file of at most 256 MiB")
    verify.add_argument("--json", action="store_true", help="print the report as JSON")
    verify.add_argument("--strict", action="store_true", help="fail when an embedded record cannot be judged")
    verify.add_argument("--expect-binding-digest", metavar="DIGEST", help="binding digest of the package, obtained from elsewhere")
    options = parser.parse_args(arguments)
    file: Path = options.file
    try:
        text = read_file(file)
    except FileRefused as error:
        print(_printable(error.describe()), file=sys.stderr)
        return 2
    report = verify_document(text, strict=options.strict, expected_binding_digest=options.expect_binding_digest)
    print(json.dumps(report.to_dict(), indent=2) if options.json else _text(file, report))
    return 0 if report.ok else 2


def _text(file: Path, report: DocumentReport) -> str:
    lines = [f"{_printable(file)}: {report.kind.replace('_', ' ')}"]
    for check in report.result.checks:
        lines.append(f"  {'PASS' if check.ok else 'FAIL'}  {check.name}" + (f": {_printable(check.detail)}" if check.detail else ""))
        if not check.ok:
            lines += [
                f"        {name} {_printable(value)}" for name in ("expected", "actual") if (value := getattr(check, name)) is not None
            ]
    failed = sum(not check.ok for check in report.result.checks)
    lines.append(f"{failed} of {len(report.result.checks)} checks failed." if failed else _LIMIT)
    return "\n".join(lines)


def _printable(value: object) -> str:
    """Harmless on any terminal, in any encoding."""
    return printable(value).encode("ascii", "backslashreplace").decode()


if __name__ == "__main__":
    sys.exit(main())
