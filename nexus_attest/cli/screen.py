"""Decisions, templates and verdicts for people: panels, tables and timelines, with rich.

Whatever a user wrote is escaped before rich sees it (`nexus_control.markdown`), and rich is told to read no markup in any text, so that
a goal can neither move the cursor nor paint itself green. No colour when the output is no terminal, or when NO_COLOR is set.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nexus_control.auditor import report_lines
from nexus_control.evidence import EvidenceReport
from nexus_control.likeness import alike
from nexus_control.markdown import escape
from nexus_control.verification import VerificationCheck

__all__ = ["Screen", "checks_table", "shown", "verdict"]

_WIDTH_IN_FILES = 120
"""Columns when the output is no terminal and COLUMNS does not say otherwise."""

_ROOM_FOR_MORE = 100
"""From this width on a list of decisions shows when they were made, a list of runs how far they came and by which adapter."""

_ROOM_FOR_ALL = 120
"""From this width on a list of runs shows when they were made as well."""

_STYLES = {
    "DRAFT": "dim",
    "PENDING_APPROVAL": "yellow",
    "APPROVED": "green",
    "EXECUTING": "yellow",
    "EXECUTED": "green",
    "COMPLETED": "green",
    "FAILED": "red",
    "INVALID": "red",
    "SUBMITTED": "yellow",
    "DEFERRED": "yellow",
    "CONFIRMED": "green",
}
_CATEGORY_STYLES = {"decision": "bold", "policy": "blue", "approval": "green", "execution": "magenta"}

_OUTCOME_STYLES = {
    "PASS": "green",
    "FAIL": "bold red",
    "INCOMPLETE": "yellow",
    "SKIP": "yellow",
    "ok": "green",
    "FAILED": "red",
    "expected": "red",
    "actual": "red",
}

_ASKED = {
    "binding_digest": "Is the binding the one that was sealed?",
    "control_bundle_digest": "Are request, policy and approvals the ones that were sealed?",
    "binding_control_match": "Does the binding mean this decision?",
    "binding_router_match": "Does the binding mean this run?",
    "binding_link_match": "Is this the run of this decision?",
    "router_digest": "Is the record of the run the one that was sealed?",
    "expected_binding_digest": "Is it the package whose digest you know?",
    "schema": "Can it be read?",
    "bundle_version": "Is it of a format that is known here?",
    "bundle_digest": "Is the content the one that was sealed?",
    "event_digests": "Is every event the one that was recorded?",
    "event_sequence": "Are all events there, in order?",
    "derived_sections": "Do policy and approvals agree with the events?",
    "header": "Does the header agree with the events?",
    "form": "Can it be read, and is it written in its one form?",
    "path": "Is the transaction, with its result, in that ledger?",
    "result": "Did the ledger apply it?",
    "account": "Is it one of an account that you expect?",
    "memo": "Does it say something that is ours?",
    "headers": "Do the headers lead to the ledger that was voted for?",
    "lists": "Are the validator lists signed, and of that time?",
    "publisher": "Are they of a publisher whom you believe?",
    "validations": "Did listed validators vote for that ledger?",
    "quorum": "Are they four fifths of the list?",
    "evidence_digest": "Is it the evidence that the receipt names?",
    "receipt": "Is it the evidence for this receipt, and this intent?",
    "subject": "Is the intent about this package?",
}
"""What each check asks, for people."""


def shown(value: object, absent: str = "-") -> str:
    """Any value as one harmless line."""
    return absent if value is None or value == "" else escape(value)


class Screen:
    """Prints to one stream. The data are those of `NexusControlTools`."""

    def __init__(self, file: TextIO) -> None:
        width = None if file.isatty() or "COLUMNS" in os.environ else _WIDTH_IN_FILES
        plain = bool(os.environ.get("NO_COLOR"))
        self.console = Console(
            file=file, width=width, markup=False, emoji=False, highlight=False, color_system=None if plain else "auto", legacy_windows=False
        )

    def print(self, *what: RenderableType) -> None:
        """Print renderables; plain strings must be escaped already."""
        self.console.print(*what, sep="\n")

    def line(self, done: str, subject: object, detail: str) -> None:
        """What was done to what, on one line that is never broken."""
        self.console.print(f"{done} {escape(subject)} ({escape(detail)})", soft_wrap=True)

    # -- decisions ------------------------------------------------------------------------------------------------------------

    def status(self, data: Mapping[str, Any], uncounted: str | None) -> None:
        """Where a decision stands: `inspect` data as panel and timeline; `uncounted` says, escaped, which approvals make nothing run."""
        self.print(self._panel(data, (), uncounted), "", self._timeline(data))

    def inspection(self, data: Mapping[str, Any], uncounted: str | None) -> None:
        """Everything about a decision: the panel with policy and digests, its approvals, its timeline; `uncounted` as for `status`."""
        self.print(self._panel(data, [*_policy_rows(data), *_execution_rows(data["execution"])], uncounted))
        if data["approval"]["approvers"]:
            self.print("", _approvers(data["approval"]["approvers"]))
        self.print("", self._timeline(data))

    def decisions(self, data: Mapping[str, Any]) -> None:
        """A page of decisions."""
        columns = ("Id", "State", "Created", "Goal") if self.console.width >= _ROOM_FOR_MORE else ("Id", "State", "Goal")
        table = _table(columns, whole=columns[:-1])
        for entry in data["requests"]:
            state = str(entry["state"]).upper()
            goal = entry.get("error") if state == "INVALID" else entry["goal"]
            times = [_time(entry["created_at"])] if "Created" in columns else []
            table.add_row(shown(entry["request_id"]), Text(state.lower(), _STYLES.get(state, "")), *times, shown(goal))
        self._page(table, data, "decision")

    def _panel(self, data: Mapping[str, Any], more: Iterable[tuple[str, RenderableType]], uncounted: str | None) -> Panel:
        decision, lifecycle, progress = data["decision"], data["lifecycle"], data["lifecycle"]["progress"]
        status = str(decision["status"])
        rows: list[tuple[str, RenderableType]] = [
            ("Goal", shown(decision["goal"])),
            ("Id", shown(decision["decision_id"])),
            ("Mode", shown(decision["mode"])),
            ("Approvals", f"{progress['approvals_current']} of {progress['approvals_required']}"),
            ("Created", _time(decision["created_at"])),
            *more,
        ]
        for reason in lifecycle["blocking_reasons"] if status != "EXECUTED" else ():
            rows.append(("Blocked", Text(f"{reason['code']}: {escape(reason['message'])}", "yellow")))
        if uncounted is not None:
            rows.append(("But", Text(uncounted, "yellow")))
        for twins in alike(approver["actor"] for approver in data["approval"]["approvers"]):
            rows.append(("Look alike", Text(f"{', '.join(map(ascii, twins))} are different ids", "yellow")))
        style, name = _STYLES.get(status, ""), status.replace("_", " ").lower()
        if status == "EXECUTED" and data["execution"].get("dry_run"):  # a completion that nobody requested does not say
            name = "executed (dry run)"
        if status == "APPROVED" and (lifecycle["is_blocked"] or uncounted is not None):
            style = "yellow"
        return _panel(rows, Text(name, f"bold {style}"), style)

    def _timeline(self, data: Mapping[str, Any]) -> RenderableType:
        lifecycle = data["lifecycle"]
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        for no_wrap in (True, False, False):
            table.add_column(no_wrap=no_wrap, overflow="fold")
        for entry in lifecycle["timeline"]:
            summary = Text(shown(entry["summary"], ""), _CATEGORY_STYLES.get(entry["category"], ""))
            table.add_row(Text(_time(entry["ts"]), "dim"), summary, Text(shown(entry["actor"], ""), "dim"))
        hidden = lifecycle["timeline_total"] - len(lifecycle["timeline"])
        return Group(*([Text(f"({hidden} earlier entries)", "dim")] if hidden else []), table)

    # -- templates ------------------------------------------------------------------------------------------------------------

    def template(self, data: Mapping[str, Any]) -> None:
        """One template."""
        template = data["template"]
        rows: list[tuple[str, RenderableType]] = [
            ("Description", shown(template["description"])),
            ("Approvals", shown(template["min_approvals"])),
            ("Modes", _listed(template["allowed_modes"])),
            ("Capabilities", _listed(template["require_adapter_capabilities"])),
            ("Max steps", shown(template["max_steps"], "unlimited")),
            ("Labels", _listed(template["labels"])),
            ("Created", f"{_time(template['created_at'])} by {shown(template['created_by'] and template['created_by']['id'])}"),
            ("Digest", f"sha256:{shown(data['digest'])}"),
        ]
        self.print(_panel(rows, Text(shown(template["name"]), "bold")))

    def templates(self, data: Mapping[str, Any]) -> None:
        """A page of templates."""
        table = _table(("Name", "Approvals", "Modes", "Labels", "Description"))
        for entry in data["templates"]:
            modes, labels = _listed(entry["allowed_modes"]), _listed(entry["labels"])
            table.add_row(shown(entry["name"]), shown(entry["min_approvals"]), modes, labels, shown(entry["description"]))
        self._page(table, data, "template")

    def _page(self, table: Table, data: Mapping[str, Any], what: str) -> None:
        if data["count"]:
            self.print(table)
        if not data["count"] or data["count"] == data["limit"] or data["offset"]:
            self.print(Text(f"{data['count']} {what}{'' if data['count'] == 1 else 's'} from {data['offset']} on", "dim"))

    # -- runs -----------------------------------------------------------------------------------------------------------------

    def runs(self, data: Mapping[str, Any]) -> None:
        """A page of runs, with as much of each as there is room for: its id is needed whole."""
        width = self.console.width
        middle = () if width < _ROOM_FOR_MORE else ("Steps", "Adapter") if width < _ROOM_FOR_ALL else ("Steps", "Created", "Adapter")
        table = _table(("Run", "Status", "Mode", *middle, "Goal"), whole=("Run", "Status", "Mode", "Steps", "Created"))
        for run in data["runs"]:
            status = Text(str(run["status"]).lower(), _STYLES.get(run["status"], ""))
            steps = f"{run['steps_executed']}/{run['steps_planned']}"
            values = {"Steps": steps, "Created": _time(run["created_at"]), "Adapter": shown(run["adapter_id"])}
            table.add_row(shown(run["run_id"]), status, shown(run["mode"]), *(values[name] for name in middle), shown(run["goal"]))
        self._page(table, data, "run")

    def run(self, data: Mapping[str, Any]) -> None:
        """One run: a panel, and its events."""
        rows: list[tuple[str, RenderableType]] = [
            ("Goal", shown(data["goal"])),
            ("Id", shown(data["run_id"])),
            ("Mode", shown(data["mode"])),
            ("Adapter", shown(data["adapter_id"])),
            ("Steps", f"{data['steps_executed']} of {data['steps_planned']}"),
            ("Execution", shown(data["execution_id"])),
        ]
        if data["error_code"] is not None:
            rows.append(("Error", Text(shown(data["error_code"]), "red")))
        if data["unknown_outcomes"]:
            rows.append(
                ("Unknown", Text(f"nobody knows how {data['unknown_outcomes']} of its calls ended: look before you repeat it", "yellow"))
            )
        style = _STYLES.get(data["status"], "")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        for no_wrap in (True, True, False):
            table.add_column(no_wrap=no_wrap, overflow="fold")
        for event in data["events"]:
            table.add_row(Text(_time(event["ts"]), "dim"), escape(event["type"]), _event_line(event["type"], event["payload"]))
        self.print(_panel(rows, Text(shown(data["status"]).lower(), f"bold {style}"), style), "", table)

    def adapters(self, data: Mapping[str, Any]) -> None:
        """The adapters of a file, with what is missing for them, when that was looked at."""
        table = _table(("Adapter", "Kind", "Capabilities", "Limit", "Definition"), whole=("Kind", "Limit"))
        for adapter in data["adapters"]:
            limit, digest = f"{adapter['timeout_s']:g} s", shown(adapter["definition_digest"])[:23]
            capabilities = _listed(adapter["capabilities"])
            table.add_row(shown(adapter["adapter_id"]), shown(adapter["adapter_kind"]), capabilities, limit, digest)
        self.print(table)
        checked = [adapter for adapter in data["adapters"] if "problem" in adapter]
        for adapter in checked:
            if adapter["problem"]:
                self.print(Text(f"  FAILED  {escape(adapter['adapter_id'])}: {escape(adapter['problem'])}", "red"))
        if checked:
            self.print(
                "",
                verdict(not any(adapter["problem"] for adapter in checked), "every adapter can be used", "not every adapter can be used"),
            )

    # -- checks ---------------------------------------------------------------------------------------------------------------

    def log(self, data: Mapping[str, Any]) -> None:
        """What `log verify` found."""
        rows: list[tuple[str, RenderableType]] = [("Size", f"{data['size']} facts")]
        rows += [(name.capitalize(), f"sha256:{shown(data[name])}") for name in ("root", "head") if name in data]
        self.print(_rows(rows))
        for error in data["errors"]:
            self.print(Text(f"  FAILED  {escape(error)}", "red"))
        self.print(verdict(data["ok"], "every fact is as it was written", "the log is not as it was written"))

    def evidence(self, name: str, report: EvidenceReport) -> None:
        """What `verify` found. The lines are escaped already."""
        for line in report_lines(name, report):
            first = line.split(maxsplit=1)[0] if line.startswith("  ") else line.partition(":")[0] if line else ""
            self.print(Text(line, _OUTCOME_STYLES.get(first, "" if line.startswith(" ") else "bold")))

    def narrative(self, text: str) -> None:
        """A rendered narrative, whose lines are escaped already; digests stay on one line."""
        for line in text.split("\n"):
            words = line.split(maxsplit=3)
            styles = [_OUTCOME_STYLES.get(word) or _STYLES.get(word) or "" for word in words if line.startswith("  ")]
            self.console.print(Text(line, next(filter(None, styles), "" if line.startswith(" ") else "bold")), soft_wrap=True)


def verdict(ok: bool, good: str, bad: str) -> Text:
    """The last word of a check."""
    return Text(f"ok: {good}", "bold green") if ok else Text(f"FAILED: {bad}", "bold red")


def checks_table(checks: Sequence[VerificationCheck]) -> RenderableType:
    """A line per check; below them what differed in those that failed."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for no_wrap in (True, True, False):
        table.add_column(no_wrap=no_wrap, overflow="fold")
    differences: list[RenderableType] = []
    for check in checks:
        asked = _ASKED.get(check.name, "")
        if check.ok:
            remark = f" ({escape(check.detail)})" if check.detail else ""
            table.add_row(Text("ok", "green"), escape(check.name), Text(asked + remark, "dim"))
            continue
        table.add_row(Text("FAILED", "bold red"), Text(escape(check.name), "bold red"), Text(escape(check.detail or asked), "red"))
        rows = [(f"  {name}", Text(escape(value))) for name, value in (("expected", check.expected), ("actual", check.actual)) if value]
        if rows:
            differences += [Text(f"\n{escape(check.name)}", "red"), _rows(rows)]
    return Group(table, *differences)


def _table(columns: Sequence[str], whole: Collection[str] = ()) -> Table:
    """A table whose `whole` columns are not broken, so that ids and times stay in one piece as long as there is room."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=name in whole, overflow="ellipsis" if name in whole else "fold")
    return table


def _panel(rows: Iterable[tuple[str, RenderableType]], title: Text, style: str = "") -> Panel:
    return Panel(_rows(rows), title=title, title_align="left", border_style=style or "none", box=ROUNDED, padding=(0, 1), expand=False)


def _rows(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def _policy_rows(data: Mapping[str, Any]) -> Iterable[tuple[str, RenderableType]]:
    if (policy := data["policy"]) is not None:
        yield "Modes", _listed(policy["allowed_modes"])
        yield "Capabilities", _listed(policy["require_capabilities"])
        yield "Max steps", shown(policy["max_steps"], "unlimited")
        yield "Labels", _listed(policy["labels"])
    if (template := data["template"]) is not None:
        changed = _listed(sorted(template["overrides_applied"] or {}))
        yield "Template", f"{shown(template['name'])}, overridden: {changed}"


def _execution_rows(execution: Mapping[str, Any]) -> Iterable[tuple[str, RenderableType]]:
    if not execution["requested"]:
        return
    mode = "dry_run" if execution["dry_run"] else "apply"
    yield "Execution", f"{mode} through {shown(execution['adapter_id'])}: {shown(execution['outcome'], 'requested')}"
    yield "Run", shown(execution["run_id"])
    if execution["last_error"] is not None:
        yield "Error", Text(shown(execution["last_error"]), "red")
    for name, key in (("Request", "router_request_digest"), ("Result", "router_result_digest")):
        if execution[key] is not None:
            yield name, f"sha256:{shown(execution[key])}"


def _event_line(kind: str, payload: Mapping[str, Any]) -> RenderableType:
    """What one event of a run says, as one line. The run may be another program's, so nothing is taken for granted."""
    step = shown(payload.get("step_id"), "")
    match kind, payload:
        case "PLAN_CREATED", {"plan": [*steps]}:
            return f"{len(steps)} {'step' if len(steps) == 1 else 'steps'}"
        case "TOOL_CALL_REQUESTED", {"call": {"tool": tool, "method": method}}:
            return f"{step}  {shown(tool)}/{shown(method)}"
        case "TOOL_CALL_SUCCEEDED", _:
            return Text(f"{step}  {'simulated' if payload.get('simulated') else shown(payload.get('duration_ms')) + ' ms'}", "green")
        case "TOOL_CALL_FAILED", _:
            outcome = shown(payload.get("outcome"), "outcome not recorded")
            return Text(f"{step}  {shown(payload.get('error_code'))} ({outcome}): {shown(payload.get('message'))}", "red")
        case "STEP_STARTED" | "STEP_COMPLETED", _:
            return f"{step}  {shown(payload.get('status'), '')}".rstrip()
        case "DISPATCH_SELECTED", _:
            return shown(payload.get("adapter_id"))
        case "SESSION_OPENED", {"session": {**details}}:
            return ", ".join(f"{shown(key)} {shown(value)}" for key, value in details.items())
        case "RUN_FAILED", _:
            return Text(shown(payload.get("reason"), "a step failed"), "red")
        case _:
            return ""


def _approvers(approvers: Sequence[Mapping[str, Any]]) -> Table:
    whole = ("Type", "Assurance", "At", "Expires")
    table = _table(("Approved by", *whole, "Comment"), whole=whole)
    for approver in approvers:
        expires = "never" if approver["expires_at"] is None else _time(approver["expires_at"])
        assurance = Text(
            shown(approver.get("not_believed", approver.get("assurance", "asserted"))), "red" if "not_believed" in approver else ""
        )
        table.add_row(
            shown(approver["actor"]), shown(approver["actor_type"]), assurance, _time(approver["ts"]), expires, shown(approver["comment"])
        )
    return table


def _listed(values: Sequence[object] | None) -> str:
    return ", ".join(escape(value) for value in values or ()) or "-"


def _time(text: object) -> str:
    """An ISO time in UTC, as all times of the engine are, to the second."""
    return "-" if text is None else escape(str(text)[:19].replace("T", " ")) + "Z"
