"""Published name of `nexus_control.audit_package`: every public name is the same object."""

from nexus_control.audit_package import *
from nexus_control.audit_package import __all__ as __all__
