"""The known names that a wrong name resembles."""

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.4) -> str:
    """Up to ``count`` known names that resemble ``name``, as the end of a sentence: " (nearest: 'lenet')", or "" for none."""
    near = difflib.get_close_matches(name, list(known), count, cutoff)
    return f" (nearest: {', '.join(map(repr, near))})" if near else ""
