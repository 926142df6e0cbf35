"""Packages that take long to import, each imported when something of it is first used.

A wrong value is refused, and `--help` answered, before any of them is needed: torch alone takes over a second. Files
that are read until then take these names from here. `from __future__ import annotations` at their top keeps types in
signatures from being looked up.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import torch
    import torch.nn.functional as F
    from scipy import special
    from torch import nn
else:

    class _Late(ModuleType):
        """A module that stands for the one of the same name until it is imported."""

        def __getattr__(self, name: str) -> Any:
            value = getattr(importlib.import_module(self.__name__), name)
            # The next time Python finds it without this method.
            setattr(self, name, value)
            return value

    pd, torch, nn = _Late("pandas"), _Late("torch"), _Late("torch.nn")
    F, special = _Late("torch.nn.functional"), _Late("scipy.special")

__all__ = ["F", "nn", "pd", "special", "torch"]
