"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Tests judge no time: machines are shared, and a slow draw says nothing about
# the code. Without `--hypothesis-profile=search` every run tries the same
# examples, so that a change is judged by itself; the long forms are for search.
_untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", _untimed)
settings.register_profile("same examples", _untimed, derandomize=True)
settings.load_profile("same examples")
