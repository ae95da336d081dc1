"""The step of action.yml that verifies: every file by `nexus-attest verify`, failures as annotations, a summary, and SARIF.

Reads the inputs from NEXUS_FILES, NEXUS_TRUST, NEXUS_CHECKPOINTS, NEXUS_REQUIRE and NEXUS_SARIF. Exit code 0 when every file was judged
and none failed, 2 otherwise: a pattern without files, a missing trust policy and a crash of the verifier fail the step, never pass it.
"""

import glob
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_SUMMARY = "| file | integrity | authorization | signatures | execution | log | witness |\n|---|---|---|---|---|---|---|\n"


def _lines(name: str) -> list[str]:
    return [line.strip() for line in os.environ.get(name, "").splitlines() if line.strip()]


def _escaped(text: str, *, member: bool = False) -> str:
    """As workflow commands want it (https://docs.github.com/actions/reference/workflow-commands-for-github-actions)."""
    for raw, written in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), *(((":", "%3A"), (",", "%2C")) if member else ())):
        text = text.replace(raw, written)
    return text


def _annotate(kind: str, file: str, title: str, text: str) -> None:
    place = f" file={_escaped(file, member=True)},line=1,title={_escaped(title, member=True)}"
    print(f"::{kind}{place}::{_escaped(text)}", flush=True)


def _verify(file: str, *form: str) -> subprocess.CompletedProcess[str]:
    options = [part for path in _lines("NEXUS_CHECKPOINTS") for part in ("--checkpoint", path)]
    options += [part for layer in os.environ.get("NEXUS_REQUIRE", "").split() for part in ("--require", layer)]
    if trust := os.environ.get("NEXUS_TRUST", "").strip():
        options += ["--trust", trust]
    command = [sys.executable, "-m", "nexus_attest", "verify", *options, *form, "--", file]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=600)


def _report(file: str) -> dict[str, Any] | None:
    """The report of one file; None, annotated, when there is none."""
    done = _verify(file, "--json")
    try:
        found: dict[str, Any] = json.loads(done.stdout)
        report: dict[str, Any] = found.get("details", found) if "layers" not in found else found
        if done.returncode in (0, 2) and report["ok"] is (done.returncode == 0) and report["layers"]:
            return report
        text = f"{found.get('code')}: {found.get('error') or found.get('message')}"
    except (ValueError, KeyError, TypeError):
        text = (done.stderr or done.stdout).strip()[-2000:]
    _annotate("error", file, "nexus-attest: not verified", text)
    return None


def _tell(file: str, report: dict[str, Any]) -> None:
    for layer in report["layers"]:
        required = layer["name"] in report["failed"]
        for check in layer["checks"]:
            if not check["ok"]:
                parts = [check.get("detail"), *(f"{name} {check[name]}" for name in ("expected", "actual") if name in check)]
                _annotate("error", file, f"nexus-attest: {layer['name']}", f"{check['name']}: {'; '.join(filter(None, parts))}")
        for gap in layer["gaps"]:
            _annotate("error" if required else "notice", file, f"nexus-attest: {layer['name']}", f"{gap['what']}; needed: {gap['needed']}")


def _write_sarif(path: str, files: list[str]) -> None:
    """One document with a run per file, each of a category of its own, as code scanning demands."""
    merged: dict[str, Any] = {}
    for file in files:
        document: dict[str, Any] = json.loads(_verify(file, "--sarif").stdout)
        document["runs"][0]["automationDetails"] = {"id": f"nexus-attest/{file}/"}
        merged = {**document, "runs": [*merged.get("runs", []), *document["runs"]]}
    Path(path).write_text(json.dumps(merged, indent=2), encoding="utf-8")


def _append(variable: str, text: str) -> None:
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def main() -> int:
    """Verify every file that the patterns name."""
    failed, judged, summary = 0, list[str](), _SUMMARY
    patterns = _lines("NEXUS_FILES")
    if not patterns:
        _annotate("error", "action.yml", "nexus-attest", "no files were named")
        failed += 1
    trust = os.environ.get("NEXUS_TRUST", "").strip()
    if trust and not Path(trust).is_file():
        _annotate("error", trust, "nexus-attest", f"there is no trust policy {trust}")
        failed += 1
    for pattern in patterns:
        files = sorted(name for name in glob.glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207 - patterns from the root too
        if not files:
            _annotate("error", pattern, "nexus-attest: nothing to verify", f"no file matches {pattern}")
            failed += 1
        for file in files:
            report = _report(file)
            failed += report is None or not report["ok"]
            if report is not None:
                judged.append(file)
                _tell(file, report)
                outcomes = " | ".join(layer["outcome"] for layer in report["layers"])
                summary += f"| {json.dumps(file)[1:-1].replace('|', '&#124;').replace('<', '&lt;')} | {outcomes} |\n"
    if judged and (sarif := os.environ.get("NEXUS_SARIF", "").strip()):
        _write_sarif(sarif, judged)
    _append("GITHUB_STEP_SUMMARY", summary)
    _append("GITHUB_OUTPUT", f"failed={failed}\n")
    print(f"{len(judged)} judged, {failed} failed")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
