"""Published name of `nexus_control.integrity`: every public name is the same object."""

from nexus_control.integrity import *
from nexus_control.integrity import __all__ as __all__
