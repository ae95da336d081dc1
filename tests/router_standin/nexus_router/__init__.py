"""A stand-in for nexus-router 1.1.1, which is not on the package registry: the same names, events, answers and oddities.

Written from a description of how the package behaves when it is executed. tests/test_router_standin.py compares its runs with runs of
the package itself (tests/vectors/router).
"""

__version__ = "1.1.0"  # what release 1.1.1 says of itself
