"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Tests judge no time: machines are shared, and a slow draw says nothing about
# the code.
settings.register_profile("no timing", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no timing")
