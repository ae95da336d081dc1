"""Published name of `nexus_control.store`: every public name is the same object."""

from nexus_control.store import *
from nexus_control.store import __all__ as __all__
