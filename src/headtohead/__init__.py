"""Comparison of output heads: softmax + cross-entropy against per-class sigmoid + binary cross-entropy.

`headtohead.load` reads a study that has run, `headtohead.compare` judges any table of runs; neither needs torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headtohead.notebook import compare, load

__all__ = ["compare", "load"]


def __getattr__(name: str) -> Any:
    """Import what `__all__` names when it is first used: pandas and the figures take a second."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from headtohead import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
