"""How long relstab's measurements take beside those of two other packages, on the same images and networks.

    pip install tmeasures==1.2.11 statsmodels
    python benchmarks/peers.py [--images 128] [--turns 5]

Of every module without children:

- tmeasures 1.2.11 (Quiroga et al.): its normalised variance invariance of three versions, the images, the deformed and the noisy
  ones: the standard deviation of a unit over the versions, a mean over the images, by that over the images, a mean over the
  versions. It is another quantity than D, which needs the same activations.
- relstab: D, G and R, as `relstab.measure_sensitivity` measures them.

Of the output, under a translation:

- double backward (lie-deriv, arXiv 2210.02984): the derivative along one direction as the derivative of the vector-Jacobian
  product by its vector, which is how that package takes it.
- relstab: `relstab.lie_derivatives` of the output alone.

The methods take turns in one process. Times are medians; ratios are medians over the turns, by the bare passes: three of all
images, and one for the derivatives. The script also prints how far the methods are apart where their numbers are the same by
definition: tmeasures' variances over the images against relstab's denominators, and both derivatives. tmeasures keeps activations
until the pass ends. It sees those changed that a residual network adds to in place, and these layers differ.

Writes benchmarks/peers.csv.
"""

import argparse
import contextlib
import logging
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import tmeasures.pytorch as tm
import torch
from tmeasures import TransformationSet
from torch import Tensor, nn
from torch.utils.data import Dataset

import relstab
from relstab.architectures.torchvision import torchvision
from relstab.noise import image_norms

from sensitivity import seconds

HERE = Path(__file__).parent
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "VGG11bn": (lambda: relstab.build_model("vgg11_bn", (3, 32, 32), 10), 32),
    "ResNet18": (lambda: relstab.build_model("resnet18", (3, 32, 32), 10), 32),
    "ConvNeXt-tiny": (lambda: torchvision.models.convnext_tiny(weights=None), 64),
}
BATCH = 16


class Positions(Dataset):
    """tmeasures transforms samples one by one; a sample is the position of an image here, and a transformation looks it up."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> Tensor:
        return torch.tensor(position)


class Version(tm.PyTorchTransformation):
    """Gives one version of an image."""

    def __init__(self, images: Tensor) -> None:
        nn.Module.__init__(self)
        self.images = images

    def parameters(self) -> Tensor:
        return torch.zeros(1)

    def __call__(self, position: Tensor) -> Tensor:
        return self.images[position]


def variances(measure: tm.PyTorchMeasure, model: nn.Module, versions: list[Tensor]) -> dict[str, Tensor]:
    """What a measure of tmeasures returns for each module without children."""
    names = [name for name, module in model.named_modules() if not list(module.children())]
    watched = tm.AutoActivationsModule(model)
    try:
        options = tm.PyTorchMeasureOptions(batch_size=BATCH, verbose=False)
        transformations = TransformationSet([Version(version) for version in versions])
        result = measure.eval(Positions(len(versions[0])), transformations, watched, options)
    finally:
        for module in model.modules():
            module._forward_hooks.clear()
    return dict(zip(names, result.layers, strict=True))


def double_backward(model: nn.Module, images: Tensor, directions: Tensor) -> Tensor:
    """Derivative of the output along the direction of each image, [P, classes]."""
    parts = []
    for batch, direction in zip(images.split(BATCH), directions.split(BATCH), strict=True):
        step = torch.zeros((), requires_grad=True)
        output = model(batch + step * direction)
        vector = torch.ones_like(output, requires_grad=True)
        (product,) = torch.autograd.grad(output, step, vector, create_graph=True)
        (derivative,) = torch.autograd.grad(product, vector)
        parts.append(derivative)
    return torch.cat(parts)


def passes(model: nn.Module, *versions: Tensor) -> None:
    with torch.no_grad():
        for version in versions:
            for batch in version.split(BATCH):
                model(batch)


def prepared(build: Callable[[], nn.Module], size: int, count: int) -> tuple[nn.Module, relstab.Probes]:
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # tmeasures keeps activations until the pass ends, and would see them changed
    images = torch.rand(count, 3, size, size)
    with contextlib.suppress(ValueError):  # of a network without batch norm
        relstab.estimate_batch_statistics(model, images[:32], batch_size=16)
    return model, relstab.make_probes(images)


def main(count: int, turns: int) -> None:
    logging.getLogger("tmeasures").setLevel(logging.ERROR)
    rows = []
    for name, (build, size) in NETWORKS.items():
        model, probes = prepared(build, size, count)
        versions = [probes.images, probes.deformed, probes.noisy]
        exact = probes.images.double()
        change = relstab.perturb(exact, "translation", 1e-6 * image_norms(exact), torch.Generator().manual_seed(0)) - exact
        directions = (change / image_norms(change).reshape(-1, 1, 1, 1)).float()

        def lie(model: nn.Module = model, images: Tensor = probes.images) -> pd.DataFrame:
            generator = torch.Generator().manual_seed(0)
            return relstab.lie_derivatives(
                model, images, ["translation"], layers="output", reference="translation", generator=generator, batch_size=BATCH
            )

        methods: dict[str, Callable[[], object]] = {
            "three bare passes": lambda model=model, versions=versions: passes(model, *versions),
            "relstab, D, G and R": lambda model=model, probes=probes: relstab.measure_sensitivity(model, probes),
            "tmeasures": lambda model=model, versions=versions: variances(tm.NormalizedVarianceInvariance(), model, versions),
            "one bare pass": lambda model=model, versions=versions: passes(model, versions[0]),
            "relstab, Lie derivative": lie,
            "double backward": lambda model=model, versions=versions, v=directions: double_backward(model, versions[0], v),
        }
        for work in methods.values():
            work()
        times: dict[str, list[float]] = {method: [] for method in methods}
        for _ in range(turns):
            for method, work in methods.items():
                times[method].append(seconds(work))
        floor = ""
        for method, measured in times.items():
            floor = method if "bare" in method else floor
            ratio = statistics.median(ours / bare for ours, bare in zip(measured, times[floor], strict=True))
            row = {"network": name, "method": method, "seconds": round(statistics.median(measured), 3), "ratio": round(ratio, 2)}
            rows.append(row)
            print("{network:14} {method:24} {seconds:8.2f} s {ratio:6.2f} x".format(**row), flush=True)
        compare(name, model, probes, double_backward(model, probes.images, directions), lie())
    pd.DataFrame(rows).to_csv(HERE / "peers.csv", index=False)


def compare(name: str, model: nn.Module, probes: relstab.Probes, derivative: Tensor, ours: pd.DataFrame) -> None:
    """Print how far numbers are apart that are the same by definition."""
    deviations = variances(tm.SampleVarianceInvariance(), model, [probes.images])
    table = relstab.measure_sensitivity(model, probes).set_index("layer")["denominator"]
    count = len(probes)
    both = [layer for layer in deviations if layer in table.index and np.isscalar(table[layer]) and table[layer] > 0]
    theirs = {layer: 2 * float(deviations[layer].square().sum()) * (count - 1) / count for layer in both}
    alike = [layer for layer in both if abs(theirs[layer] / table[layer] - 1) < 1e-5]
    s = float(derivative.square().sum(1).mean()) / table["output"]
    print(
        f"{name}: denominators of {len(alike)} of {len(both)} layers agree with tmeasures' to 1e-5, "
        f"S of the derivative {ours['S'].iloc[-1]:.6g}, by double backward {s:.6g}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128, help="P")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    main(options.images, options.turns)
