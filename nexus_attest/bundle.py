"""Published name of `nexus_control.bundle`: every public name is the same object."""

from nexus_control.bundle import *
from nexus_control.bundle import __all__ as __all__
