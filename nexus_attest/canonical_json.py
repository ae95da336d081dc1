"""Published name of `nexus_control.canonical_json`: every public name is the same object."""

from nexus_control.canonical_json import *
from nexus_control.canonical_json import __all__ as __all__
