"""What all tests share."""

from hypothesis import HealthCheck, settings

# a time limit per example is a timed assertion, and fails on a busy machine
settings.register_profile("no-deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-deadline")
