"""Throw-away hosts on this machine, for `make demo` and the tests."""
