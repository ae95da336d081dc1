"""Starts the server from a desktop bundle; the manifest gives the arguments."""

import sys

from nexus_attest.cli import main

sys.exit(main())
