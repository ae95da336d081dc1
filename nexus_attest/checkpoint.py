"""Published name of `nexus_control.checkpoint`: every public name is the same object."""

from nexus_control.checkpoint import *
from nexus_control.checkpoint import __all__ as __all__
