"""Published name of `nexus_control.identity`: every public name is the same object."""

from nexus_control.identity import *
from nexus_control.identity import __all__ as __all__
