"""Hypothesis profiles: HYPOTHESIS_PROFILE=fast (scripts/check), ci (the default), nightly."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: on a loaded machine it would judge the machine. A failure prints a blob that
# repeats it (@reproduce_failure).
for name, examples in (("fast", 25), ("ci", 100), ("nightly", 2_000)):
    settings.register_profile(name, max_examples=examples, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
