"""The only reader of os.environ. Apart from the settings, because clients need no more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType


def environment() -> Mapping[str, str]:
    """A read-only copy of the process's environment."""
    return MappingProxyType(dict(os.environ))
