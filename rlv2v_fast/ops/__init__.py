"""Operators: each validates its input, chooses a backend, and carries its fake kernel and autograd formula."""
