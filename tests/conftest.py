"""What all tests share: how hard Hypothesis tries.

Why     every push runs a few examples of each property in seconds; `make nightly` runs very many of them.
        A test that names a number of its own means that number for both.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

QUICK_EXAMPLES = 40
NIGHTLY_EXAMPLES = 2000

# A busy machine makes one example slow, which says nothing about the property.
settings.register_profile(
    "quick", max_examples=QUICK_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", parent=settings.get_profile("quick"), max_examples=NIGHTLY_EXAMPLES)
settings.load_profile("quick")
