"""Tests of the local test ledger, whose names can also be imported from here."""

from nexus_attest.testledger import *  # noqa: F403
from nexus_attest.testledger import __all__ as __all__
