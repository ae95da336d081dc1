"""Published name of `nexus_control.export`: every public name is the same object."""

from nexus_control.export import *
from nexus_control.export import __all__ as __all__
