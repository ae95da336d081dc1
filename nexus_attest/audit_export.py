"""Published name of `nexus_control.audit_export`: every public name is the same object."""

from nexus_control.audit_export import *
from nexus_control.audit_export import __all__ as __all__
