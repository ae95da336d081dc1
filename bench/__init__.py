"""Benchmarks: what an operation costs compared with the least that its work could cost on this machine.

    python -m bench                           everything; takes some ten minutes
    python -m bench --only status --json      one benchmark, as JSON
    python -m bench --quick                   a smoke run; its numbers mean nothing

A floor is measured in the same run as the operation, and by turns with it, so that a slow disk or a busy processor slows both and the
ratio stays. What a floor consists of is said where it is measured. Goals are upper bounds.
"""
