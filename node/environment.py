"""The only user of os.environ. Apart from the settings, because clients need no more."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from types import MappingProxyType


def environment() -> Mapping[str, str]:
    """A read-only copy of the process's environment."""
    return MappingProxyType(dict(os.environ))


def use_utc() -> None:
    """Make UTC the local time of this process, for good: what SQL says of local time goes into
    the state, which must not depend on where a machine stands."""
    os.environ["TZ"] = "UTC0"
    time.tzset()
