"""Published name of `nexus_control.policy`: every public name is the same object."""

from nexus_control.policy import *
from nexus_control.policy import __all__ as __all__
