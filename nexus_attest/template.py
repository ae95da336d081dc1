"""Published name of `nexus_control.template`: every public name is the same object."""

from nexus_control.template import *
from nexus_control.template import __all__ as __all__
