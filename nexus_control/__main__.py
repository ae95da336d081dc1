"""`python -m nexus_control verify FILE`: judge evidence with nothing but Python.

Exit code 0: no layer failed, and every required one passed. 1: an unexpected error. 2: invalid arguments, no readable file or document, or
a failed layer. Signatures need public-key cryptography, which `nexus-attest verify` has; here their layers stay INCOMPLETE.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nexus_control.auditor import report_lines
from nexus_control.checkpoint import MAX_NOTE_BYTES, parse_note
from nexus_control.errors import NexusError
from nexus_control.evidence import LAYERS, Knowledge, LogTrust, examine, parse_layers
from nexus_control.files import read_file, read_input
from nexus_control.streams import forget_output, open_streams

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code. Raises SystemExit(2) for arguments that argparse refuses."""
    parser = argparse.ArgumentParser(prog="python -m nexus_control", description="Check evidence offline.")
    verify = parser.add_subparsers(dest="command", required=True).add_parser(
        "verify", help="verify a decision bundle, an audit package or a case file"
    )
    verify.add_argument("file", type=Path, metavar="FILE", help="JSON document; - is standard input")
    verify.add_argument("--json", action="store_true", help="print the report as JSON")
    verify.add_argument("--strict", action="store_true", help="fail integrity when an embedded record cannot be judged")
    verify.add_argument("--expect-binding-digest", metavar="DIGEST", help="binding digest of the package, obtained from elsewhere")
    verify.add_argument("--checkpoint", type=Path, action="append", default=[], metavar="FILE", help="a checkpoint that was kept")
    verify.add_argument(
        "--require", action="append", default=[], choices=[name.value for name in LAYERS], metavar="LAYER", help="a layer that must pass"
    )
    options = parser.parse_args(arguments)
    file: Path = options.file
    try:
        kept = tuple(parse_note(read_file(path, MAX_NOTE_BYTES)) for path in options.checkpoint)
        document = read_input() if file == Path("-") else read_file(file)
    except NexusError as error:
        print(_printable(error.describe()), file=sys.stderr)
        return 2
    knowledge = Knowledge(logs=LogTrust(checkpoints=kept), strict=options.strict, expected_binding_digest=options.expect_binding_digest)
    report = examine(document, knowledge, require=parse_layers(options.require))
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        for line in report_lines(str(file), report):
            print(_printable(line))
    return 0 if report.ok else 2


def _printable(line: str) -> str:
    """On any terminal, in any encoding. What comes from outside was escaped before."""
    return line.encode("ascii", "backslashreplace").decode()


def _program() -> int:
    """`main` as a process: what cannot be printed ends it with 1, told in a line unless the reader just left."""
    open_streams()
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        forget_output()
    except OSError as error:  # the disk behind standard output is full, for example
        forget_output()
        print(f"IO_ERROR: {error.strerror or error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(_program())
