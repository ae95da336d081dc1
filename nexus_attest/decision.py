"""Published name of `nexus_control.decision`: every public name is the same object."""

from nexus_control.decision import *
from nexus_control.decision import __all__ as __all__
