"""Compares what a host should be with what it is now: pure functions from a reading to checks."""
