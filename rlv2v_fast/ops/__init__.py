"""Operators: each checks its arguments, chooses a backend, and declares its fake kernel; register.py does the rest."""
