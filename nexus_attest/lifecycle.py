"""Published name of `nexus_control.lifecycle`: every public name is the same object."""

from nexus_control.lifecycle import *
from nexus_control.lifecycle import __all__ as __all__
