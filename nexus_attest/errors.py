"""Published name of `nexus_control.errors`: every public name is the same object."""

from nexus_control.errors import *
from nexus_control.errors import __all__ as __all__
