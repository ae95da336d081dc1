"""Published name of `nexus_control.flight_checks`: every public name is the same object."""

from nexus_control.flight_checks import *
from nexus_control.flight_checks import __all__ as __all__
