"""Published name of `nexus_control.merkle`: every public name is the same object."""

from nexus_control.merkle import *
from nexus_control.merkle import __all__ as __all__
