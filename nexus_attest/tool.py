"""Published name of `nexus_control.tool`: every public name is the same object."""

from nexus_control.tool import *
from nexus_control.tool import __all__ as __all__
