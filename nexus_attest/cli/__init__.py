"""The command line `nexus-attest`.

`main` is what the installed command and `python -m nexus_attest` call. Exit codes: 0 done and every check passed, 1 unexpected error
(a bug, or a disk or store that fails), 2 invalid input, refused command or failed verification, 130 interrupted.
"""

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line of this process and give its exit code."""
    try:
        from nexus_control.streams import open_streams

        open_streams()
        from nexus_attest.cli.app import run  # inside, so that Ctrl-C while it loads is as quiet as later

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return 130
