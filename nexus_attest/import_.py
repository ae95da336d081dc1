"""Published name of `nexus_control.import_`: every public name is the same object."""

from nexus_control.import_ import *
from nexus_control.import_ import __all__ as __all__
