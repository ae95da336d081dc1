"""What a transaction needs of the ledger before it is signed, asked of one server: for signers that complete transactions by themselves.

The batch submitter does not use this: it decides on Sequence and LastLedgerSequence itself, and stores them.
"""

from typing import Any, cast

from nexus_attest.attestation.errors import LedgerUnavailable

__all__ = ["NodeCompletion"]

_FIRST_LISTED_NETWORK = 1025
"""From here on a transaction must name its network; with lower ones it must not."""


class NodeCompletion:
    """Gives the members that an account's next transaction lacks, for `LocalWalletSigner(complete=...)`.

    It blocks while it asks: `timeout` is in seconds for each of four requests. `window`: ledgers that the transaction may wait.
    """

    def __init__(self, url: str, *, timeout: float = 10.0, window: int = 20, max_fee_drops: int = 5000) -> None:
        self._url = url
        self._timeout = timeout
        self._window = window
        self._max_fee_drops = max_fee_drops

    def __call__(self, account: str) -> dict[str, Any]:
        """`Sequence`, `Fee`, `LastLedgerSequence`, and `NetworkID` where it is needed. Raises LedgerUnavailable."""
        fee = self._ask("fee")
        ledger = self._ask("ledger", ledger_index="validated")
        found = self._ask("account_info", account=account, ledger_index="current")
        server = self._ask("server_info")
        try:
            drops, network_id = fee["drops"], int(server["info"].get("network_id", 0))
            completed = {
                "Sequence": int(found["account_data"]["Sequence"]),
                "Fee": str(min(max(int(drops["base_fee"]), int(drops["open_ledger_fee"])), self._max_fee_drops)),
                "LastLedgerSequence": int(ledger["ledger_index"]) + self._window,
            }
        except (LookupError, TypeError, ValueError, AttributeError):
            raise LedgerUnavailable(f"{self._url}: an answer of another shape") from None
        return {**completed, "NetworkID": network_id} if network_id >= _FIRST_LISTED_NETWORK else completed

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        import httpx  # the HTTP library, loaded where it is used

        try:
            response = httpx.post(
                self._url, json={"method": method, "params": [{"api_version": 2, **params}], "id": 1}, timeout=self._timeout
            )
            response.raise_for_status()
            result: object = response.json()["result"]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as problem:
            raise LedgerUnavailable(f"{self._url}: {method}: {type(problem).__name__}") from None
        members = cast("dict[str, Any]", result) if isinstance(result, dict) else {"error": "an answer of another shape"}
        if "error" in members:
            raise LedgerUnavailable(f"{self._url}: {method}: {members['error']!s:.100}")
        return members
