"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# No example has a time limit: a busy machine is no fault of the code.
settings.register_profile("banet", deadline=None)
settings.load_profile("banet")
