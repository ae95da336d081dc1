"""`python -m bench`: run the benchmarks, print a line for each result, write JSON on request."""

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import (
    downstream,
    evidence,
    growth,
    instructions,
    postgres,
    proofs,
    races,
    reads,
    runs,
    scale,
    serving,
    startup,
    syncs,
    verification,
    witness,
    writes,
)
from bench.harness import Benchmark, Result, Settings

_ROOT = Path(__file__).resolve().parent.parent

_BENCHMARKS: dict[str, Benchmark] = {
    "append_event": writes.append_event,
    "append_logged": writes.append_logged,
    "request": writes.request_decision,
    "approve": writes.approve_decision,
    "syncs": syncs.syncs,
    "full_flow": writes.full_flow,
    "status": reads.status,
    "get_events": reads.get_events,
    "list_requests": reads.list_requests,
    "verify_audit_package": verification.verify_package,
    "case_file": evidence.case_files,
    "log_root": evidence.log_roots,
    "router_step": runs.steps,
    "mcp_call": downstream.calls,
    "verify_flight_record": runs.verification,
    "growth_with_events": growth.growth_with_events,
    "growth_with_approvers": growth.growth_with_approvers,
    "growth_with_decisions": growth.growth_with_decisions,
    "growth_in_instructions": instructions.growth_in_instructions,
    "approve_once": growth.approve_once,
    "postgres_append": postgres.appends,
    "postgres_group_commit": postgres.group_commit,
    "races": races.races,
    "postgres_races": races.postgres_races,
    "scale": scale.scale,
    "import": startup.imports,
    "help": startup.command_help,
    "mcp_calls": serving.calls,
    "mcp_start": serving.starts,
    "mcp_end": serving.signals,
    "mcp_tokens": serving.tokens,
    "witness_trees": witness.trees,
    "witness_receipts": witness.receipts,
    "witness_queue": witness.queue,
    "witness_signatures": witness.signatures,
    "witness_verification": witness.verification,
    "proofs": proofs.proofs,
}

_HEADINGS = ("", "measured", "", "at most", "")


def main() -> int:
    """0, or 1 when `--check` was given and a goal was missed."""
    options = _options()
    results: list[Result] = []
    report = _machine(quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="nexus-bench-", dir=options.dir) as directory:
        settings = Settings(directory=Path(directory), quick=options.quick)
        if not options.json:
            print(_line(*_HEADINGS), flush=True)
        for name in options.only or _BENCHMARKS:
            for result in _BENCHMARKS[name](settings):
                results.append(result)
                if not options.json:
                    print(_row(result), flush=True)
    report |= {"load_at_end": os.getloadavg()[0], "results": [result.to_dict() for result in results]}
    text = json.dumps(report, indent=2)
    if options.json:
        print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    return int(options.check and any(result.outcome == "MISSED" for result in results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure operations against floors and goals.")
    parser.add_argument("--only", metavar="NAME", action="append", choices=list(_BENCHMARKS), help="one of: %(choices)s; may be repeated")
    parser.add_argument("--dir", type=Path, default=_ROOT.parent, help="where files are measured; default: beside the repository")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write JSON to a file as well")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal was missed")
    return parser.parse_args()


def _machine(*, quick: bool) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "quick": quick,
    }


def _row(result: Result) -> str:
    value = "" if result.value is None else f"{result.value:,.2f}"
    goal = "" if result.goal is None else f"{result.goal:g}"
    return _line(result.name, f"{value} {result.unit}", result.outcome, goal, result.detail)


def _line(name: str, measured: str, outcome: str, goal: str, detail: str) -> str:
    return f"{name:<40} {measured:>20} {goal:>8}  {outcome:<8} {detail}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
