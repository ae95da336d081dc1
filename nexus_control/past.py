"""What a store knows about a decision beside the events of its newest generation, and what may therefore not be done with it.

An import brings a history that somebody else tells. It is shown as it was told; but what it says about approvals must not make this
store run anything, unless a signature that is believed here stands behind it. Nor may it take this store back in time: an approval that
was used or revoked in an earlier generation stays used or revoked.
"""

from nexus_control.decision import Past
from nexus_control.event_store import EventStore, History
from nexus_control.events import EventType
from nexus_control.identity import identity_of

__all__ = ["past_of"]


def past_of(store: EventStore, decision_id: str, history: History | None = None) -> Past:
    """The past of a decision that exists; read inside the transaction that acts on it, as `history` was if it is given.

    Raises DecisionNotFound, and MalformedEvent for an earlier generation that cannot be read.
    """
    generation, imported = store.origin(decision_id) if history is None else (history.generation, history.imported)
    past = Past(imported)
    for number in range(1, generation):
        granted: set[bytes] = set()
        for event in store.get_events(decision_id, generation=number):
            if event.event_type is EventType.EXECUTION_REQUESTED:
                past.used.update(granted)
            elif event.event_type in (EventType.APPROVAL_GRANTED, EventType.APPROVAL_REVOKED):
                identity = identity_of(event)
                if event.event_type is EventType.APPROVAL_REVOKED:
                    past.revoked(event, identity)
                elif identity.envelope is not None:
                    granted.add(identity.envelope.payload)
    return past
