"""Settings of all tests."""

from hypothesis import HealthCheck, settings

# Examples import libraries, on a machine that may be busy: their time says nothing.
settings.register_profile("hydra_ray", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hydra_ray")
