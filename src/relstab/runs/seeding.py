"""Seeds that follow from the identity of a job, so that results depend neither on the order of jobs nor on the machine."""

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["derive_seed", "make_generator"]


def derive_seed(*identity: str | int | float) -> int:
    """Seed in [0, 2^63) that follows from ``identity`` alone: stage, data set, architecture, noise, seed and so on.

    Numbers count by value: 1 and 1.0 are the same noise level.
    """
    parts = [float(part) if isinstance(part, int | float) else part for part in identity]
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(*identity: str | int | float) -> "torch.Generator":
    """CPU generator seeded with :func:`derive_seed`: the same numbers whatever the device of the work."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*identity))
