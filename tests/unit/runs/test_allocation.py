"""Memory that a pass frees: kept inside, and afterwards as in a process that never asked for it."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relstab
from relstab.runs import allocation

glibc = pytest.mark.skipif(allocation._glibc() is None, reason="needs glibc")


@glibc
def test_freed_memory_is_kept_inside_and_only_large_blocks_go_back_after():
    """Page faults of filling a new tensor, in a fresh process: how memory comes back depends on what a process freed before."""
    script = """
    import json, resource, torch
    from relstab.runs.allocation import kept_memory

    def faults(mib):
        def fill():
            torch.empty(mib * 2**18).fill_(1)
        for _ in range(10):  # each needs a block of the same size and a little more, until free ones have joined
            fill()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(8):
            fill()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    torch.set_num_threads(1)
    counts = {}
    with kept_memory(torch.device("cpu")):
        with kept_memory(torch.device("cpu")):
            counts["inside"] = faults(48)
        counts["still inside"] = faults(48)
    counts["small, after"], counts["large, after"] = faults(20), faults(48)
    print(json.dumps(counts))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout)
    # 8 tensors of 48 MiB are 192 pages even of 2 MiB, of 20 MiB 80.
    assert counts["large, after"] >= 192, counts
    assert max(counts["inside"], counts["still inside"], counts["small, after"]) < 40, counts


class Watching(nn.Module):
    """Notes whether memory is kept while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 3)
        self.seen: set[int] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.add(allocation._inside)
        return self.layer(images.flatten(1))


@glibc
@pytest.mark.parametrize(
    "measure",
    [
        lambda model, images: relstab.measure_sensitivity(model, relstab.make_probes(images)),
        lambda model, images: relstab.measure_perturbations(model, images, ["noise"], norm=0.1),
        lambda model, images: relstab.lie_derivatives(model, images, ["translation"]),
    ],
)
def test_measurements_keep_memory_and_give_it_back(measure: Callable[[nn.Module, Tensor], object]):
    model = Watching()
    measure(model, torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert 1 in model.seen
    assert allocation._inside == 0


def test_an_error_inside_ends_it():
    with pytest.raises(RuntimeError), allocation.kept_memory(torch.device("cpu")):
        raise RuntimeError
    assert allocation._inside == 0


def test_a_gpu_needs_none():
    with allocation.kept_memory(torch.device("cuda")):
        assert allocation._inside == 0
