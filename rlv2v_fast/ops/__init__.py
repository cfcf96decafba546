"""Operators: each checks its arguments, chooses a backend, and declares its fake kernel; register.py does the rest."""

# Before any module of this package: the import of torch registers the operators, for which it imports them all.
import torch  # noqa: F401
