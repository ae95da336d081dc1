"""Published name of `nexus_control.events`: every public name is the same object."""

from nexus_control.events import *
from nexus_control.events import __all__ as __all__
