"""A forger's workshop: packages in which every digest fits, whatever was changed."""

import copy
from typing import Any

from evidence_testing import vector

from nexus_control.audit_package import compute_binding_digest
from nexus_control.bundle import DecisionBundle, compute_router_link_digest
from nexus_control.bundle_checks import recompute, replay_bundle
from nexus_control.integrity import content_digest, unprefixed

__all__ = ["approval", "events_of", "genuine", "rebuilt"]


def genuine() -> dict[str, Any]:
    """A package whose integrity, authorization and execution pass: alice asked, bob approved, carol ran it."""
    return vector("router-audit-package-embedded.json")


def events_of(package: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a package, to be edited in place."""
    return package["control_bundle"]["events"]


def approval(who: str, ts: str, **payload: Any) -> dict[str, Any]:
    """An approval as a forger writes it."""
    return {"type": "APPROVAL_GRANTED", "ts": ts, "actor": {"type": "human", "id": who}, "payload": {"expires_at": None, **payload}}


def rebuilt(package: dict[str, Any], *, link: bool = True) -> dict[str, Any]:
    """The package with everything that follows from its events and its record recomputed: ids, digests, header, sections, link, binding."""
    package = copy.deepcopy(package)
    control = package["control_bundle"]
    name = control["decision"]["decision_id"]
    for seq, event in enumerate(control["events"]):
        digest = content_digest({"event_type": event["type"], "payload": event["payload"]})
        event |= {"seq": seq, "decision_id": name, "event_id": f"evt_{name}_{seq}", "digest": digest}
    bundle = DecisionBundle.from_dict(control)
    decision = replay_bundle(name, bundle.events)
    control["decision"] |= {
        "goal": decision.goal,
        "mode": decision.requested_mode or "dry_run",
        "status": decision.state.value.upper(),
        "created_at": control["events"][0]["ts"],
    }
    execution = decision.latest_execution
    if link and execution is not None:
        control["router_link"] |= {"run_id": execution.run_id, "adapter_id": execution.adapter_id}
        for member, raw in (("router_request_digest", execution.request_digest), ("router_result_digest", execution.response_digest)):
            control["router_link"][member] = None if raw is None else f"sha256:{raw}"
    given = control["router_link"]
    digests = [None if given.get(key) is None else unprefixed(given[key]) for key in ("router_request_digest", "router_result_digest")]
    given["control_router_link_digest"] = f"sha256:{compute_router_link_digest(name, given['run_id'], *digests)}"
    bundle = DecisionBundle.from_dict(control)
    for section in ("policy", "approvals"):
        if section in control:
            control[section] = getattr(bundle, section)
    control["integrity"]["canonical_digest"] = f"sha256:{recompute(bundle).bundle_digest}"
    router = package["router"]
    binding = package["binding"]
    binding["control_digest"] = control["integrity"]["canonical_digest"]
    binding["router_digest"] = (
        router["bundle"]["integrity"]["canonical_digest"] if router["mode"] == "embedded" else router["ref"]["digest"]
    )
    binding["control_router_link_digest"] = given["control_router_link_digest"]
    raw = compute_binding_digest(
        package["package_version"], *(binding[key] for key in ("control_digest", "router_digest", "control_router_link_digest"))
    )
    package["integrity"]["binding_digest"] = f"sha256:{raw}"
    return package
