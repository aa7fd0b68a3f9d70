"""Settings of all tests."""

from hypothesis import settings

# The first example imports libraries, on a machine that may be busy: its time says nothing.
settings.register_profile("hydra_ray", deadline=None)
settings.load_profile("hydra_ray")
