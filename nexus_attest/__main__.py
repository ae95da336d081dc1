"""`python -m nexus_attest`: the command line."""

import sys

from nexus_attest.cli import main

sys.exit(main())
