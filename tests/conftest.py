"""Hypothesis profiles: HYPOTHESIS_PROFILE=fast (scripts/check), ci (the default), nightly."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

from tests import ports

# No deadline: on a loaded machine it would judge the machine. A failure prints a blob that
# repeats it (@reproduce_failure).
for name, examples in (("fast", 25), ("ci", 100), ("nightly", 2_000)):
    settings.register_profile(name, max_examples=examples, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure() -> None:
    """Hear signals as a program at a terminal does, wherever the tests are started.

    A background job and nohup ignore some, and what ignores a signal hands that on to the
    programs it starts. With a handler here, however idle, they start with the default.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    ports.claim()
