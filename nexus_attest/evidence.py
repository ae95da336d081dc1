"""Published name of `nexus_control.evidence`: every public name is the same object."""

from nexus_control.evidence import *
from nexus_control.evidence import __all__ as __all__
