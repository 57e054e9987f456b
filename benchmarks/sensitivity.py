"""How long D, G and R of every layer take, beside the textbook method and beside bare forward passes.

    python benchmarks/sensitivity.py [CASE ...]

Methods, on the same tensors in one process, in turn:

- floor: the images, the deformed and the noisy ones go through the network and nothing is measured, in the fastest of several
  batch sizes;
- relstab: relstab.measure_sensitivity as it is;
- textbook: activations of all layers are collected, the denominator is the mean of the P x P matrix of distances; in float32,
  and in float64 as the reference implementation ships it.

Times are medians of the runs, ratios medians of pairs that ran one after the other. Peak memory is that of a fresh process of
each method, beyond what it held before: network, probes, and what one forward pass of two images loads. The perturbations are
timed too: relstab.make_probes against one image at a time through the field and the warp.

Writes benchmarks/sensitivity.csv and benchmarks/sensitivity.png; benchmarks/README.md discusses them.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import relstab
from relstab.architectures.torchvision import torchvision

HERE = Path(__file__).parent
# Network, image shape, P, runs of floor and relstab, batch sizes of the floor, precisions of the textbook method.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int, int, tuple[int, ...], tuple[str, ...]]] = {
    "VGG11bn, 32, P = 500": (
        lambda: relstab.build_model("vgg11_bn", (3, 32, 32), 10), (3, 32, 32), 500, 7, (25, 50, 125, 500), ("float32", "float64")
    ),
    "ResNet18, 32, P = 500": (
        lambda: relstab.build_model("resnet18", (3, 32, 32), 10), (3, 32, 32), 500, 5, (25, 50, 125), ("float32", "float64")
    ),
    "ResNet50, 224, P = 64": (lambda: torchvision.models.resnet50(), (3, 224, 224), 64, 5, (2, 8, 24), ("float32",)),
    "ConvNeXt-tiny, 224, P = 64": (lambda: torchvision.models.convnext_tiny(), (3, 224, 224), 64, 5, (2, 8, 24), ()),
    "ViT-B/32, 224, P = 64": (lambda: torchvision.models.vit_b_32(), (3, 224, 224), 64, 5, (4, 16, 64), ()),
    # The few images before a measurement count for less here; the textbook method would need 67 GB for ResNet50.
    "ResNet50, 224, P = 256": (lambda: torchvision.models.resnet50(), (3, 224, 224), 256, 2, (8,), ()),
    "ConvNeXt-tiny, 224, P = 256": (lambda: torchvision.models.convnext_tiny(), (3, 224, 224), 256, 2, (8,), ()),
    # The textbook method would need 19 GB for VGG11bn and 29 GB for ResNet18 in float32.
    "VGG11bn, 32, P = 5000": (lambda: relstab.build_model("vgg11_bn", (3, 32, 32), 10), (3, 32, 32), 5000, 1, (50, 125), ()),
    "ResNet18, 32, P = 2000": (lambda: relstab.build_model("resnet18", (3, 32, 32), 10), (3, 32, 32), 2000, 1, (8, 25), ()),
}  # fmt: skip


def textbook_probes(images: Tensor, displacement: float = 1.0, cutoff: int = 3) -> relstab.Probes:
    """One image at a time: its field mode by mode, its warp, its noise."""
    size = images.shape[-1]
    scale = size * relstab.temperature(displacement, cutoff, size) ** 0.5
    line = torch.linspace(0, 1, size)
    col, row = torch.meshgrid(line, line, indexing="xy")
    deformed, noisy = [], []
    for image in images:
        fields = []
        for _ in range(2):
            field = torch.zeros(size, size)
            for i in range(1, cutoff + 1):
                for j in range(1, cutoff + 1):
                    norm = (i**2 + j**2) ** 0.5
                    if norm < cutoff + 0.5:
                        field += torch.randn(()) / norm * torch.sin(i * torch.pi * col) * torch.sin(j * torch.pi * row)
            fields.append(scale * field)
        x = (col * (size - 1) - fields[0]).clamp(0, size - 1)
        y = (row * (size - 1) - fields[1]).clamp(0, size - 1)
        left, top = x.floor().long().clamp(max=size - 2), y.floor().long().clamp(max=size - 2)
        right, down = x - left, y - top
        above = (1 - right) * image[:, top, left] + right * image[:, top, left + 1]
        below = (1 - right) * image[:, top + 1, left] + right * image[:, top + 1, left + 1]
        deformed.append((1 - down) * above + down * below)
        noise = torch.randn_like(image)
        noisy.append(image + noise * (deformed[-1] - image).norm() / noise.norm())
    return relstab.Probes(images, torch.stack(deformed), torch.stack(noisy))


def textbook(model: nn.Module, probes: relstab.Probes, batch_size: int = 50) -> dict[str, tuple[float, float]]:
    """D and G of every leaf by the definition: all activations, all pairs."""
    collected: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _args, output: collected.setdefault(name, []).append(output.flatten(1).clone())

    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}

    def representations(images: Tensor) -> dict[str, Tensor]:
        collected.clear()
        handles = [module.register_forward_hook(keep(name)) for name, module in leaves.items()]
        with torch.no_grad():
            for batch in images.split(batch_size):
                model(batch)
        for handle in handles:
            handle.remove()
        # A module that is called several times has several representations a batch.
        calls = {name: len(parts) * batch_size // -(-len(images) // batch_size * batch_size) for name, parts in collected.items()}
        result = {}
        for name in list(collected):
            parts = collected.pop(name)
            for call in range(calls[name]):
                result[f"{name}#{call}"] = torch.cat(parts[call :: calls[name]])
        return result

    clean = representations(probes.images)
    pairs = {name: torch.cdist(f, f).square().mean() for name, f in clean.items()}
    ratios: dict[str, list[float]] = {name: [] for name in clean}
    for version in (probes.deformed, probes.noisy):
        perturbed = representations(version)
        for name, f in clean.items():
            ratios[name].append(float((perturbed.pop(name) - f).square().sum(1).mean() / pairs[name]))
    return {name: (d, g) for name, (d, g) in ratios.items()}


def floor(model: nn.Module, probes: relstab.Probes, batch_size: int) -> None:
    """Three bare forward passes."""
    with torch.no_grad():
        for version in (probes.images, probes.deformed, probes.noisy):
            for batch in version.split(batch_size):
                model(batch)


def prepared(case: str) -> tuple[nn.Module, relstab.Probes]:
    build, shape, count, *_ = CASES[case]
    torch.manual_seed(0)
    model = build().eval()
    images = torch.randn(count, *shape)
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        relstab.estimate_batch_statistics(model, images[:32], batch_size=16)
    probes = relstab.make_probes(images)
    floor(model, probes[:2], 2)
    return model, probes


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_memory(case: str, method: str) -> None:
    """Print the peak in MB of one method beyond what the process held before it."""
    model, probes = prepared(case)
    if method == "float64":
        model, probes = (
            model.double(),
            relstab.Probes(*(version.double() for version in (probes.images, probes.deformed, probes.noisy))),
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if method == "relstab":
        relstab.measure_sensitivity(model, probes)
    elif method == "floor":
        floor(model, probes, 50 if len(probes) > 100 else 8)
    else:
        textbook(model, probes)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def measure_time(case: str) -> None:
    """Print, as JSON, seconds of each method and the ratios to the floor."""
    *_, runs, sizes, precisions = CASES[case]
    model, probes = prepared(case)
    trial = {
        size: min(seconds(lambda size=size: floor(model, probes[:500], size)) for _ in range(2 if case.startswith("VGG") else 1))
        for size in sizes
    }
    size = min(trial, key=trial.__getitem__)
    floors, ours = [], []
    for _ in range(runs):
        floors.append(seconds(lambda: floor(model, probes, size)))
        ours.append(seconds(lambda: relstab.measure_sensitivity(model, probes)))
    times = {"floor": statistics.median(floors), "relstab": statistics.median(ours)}
    ratios = {"relstab": statistics.median(b / a for a, b in zip(floors, ours, strict=True))}
    images = probes.images[:500]
    for precision in precisions:
        dtype = getattr(torch, precision)
        cast = relstab.Probes(*(version.to(dtype) for version in (probes.images, probes.deformed, probes.noisy)))
        start = time.perf_counter()
        textbook(model.to(dtype), cast)
        times[precision] = time.perf_counter() - start
        ratios[precision] = times[precision] / times["floor"]
    perturbing = statistics.median(seconds(lambda: relstab.make_probes(images)) for _ in range(5))
    one_by_one = seconds(lambda: textbook_probes(images))
    print(json.dumps({"batch": size, "times": times, "ratios": ratios, "perturbing": [perturbing, one_by_one]}))


def fresh(*arguments: str) -> str:
    """What a fresh process of this script prints."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]


def main(cases: list[str]) -> None:
    rows = []
    for case in cases:
        timed = json.loads(fresh("--time", case))
        for method, time_ in timed["times"].items():
            name = method if method in ("floor", "relstab") else f"textbook, {method}"
            row = {
                "case": case,
                "method": name,
                "seconds": round(time_, 3),
                "ratio_to_floor": round(timed["ratios"].get(method, 1.0), 3),
                "peak_mb": round(float(fresh("--memory", case, method))),
            }
            rows.append(row)
            print("{case:24} {method:18} {seconds:9.2f} s {ratio_to_floor:7.2f} x {peak_mb:7d} MB".format(**row), flush=True)
        ours, one_by_one = timed["perturbing"]
        print(f"{case:24} perturbing: {ours:.3f} s, one image at a time {one_by_one:.3f} s, {one_by_one / ours:.0f} x; "
              f"floor in batches of {timed['batch']}", flush=True)  # fmt: skip
        rows += [
            {"case": case, "method": "relstab, perturbations", "seconds": round(ours, 4)},
            {"case": case, "method": "textbook, perturbations", "seconds": round(one_by_one, 4)},
        ]
    table = pd.DataFrame(rows)
    if cases == list(CASES):
        table.to_csv(HERE / "sensitivity.csv", index=False)
        draw(table)


def draw(table: pd.DataFrame) -> None:
    """Time over the floor's and peak memory of each method."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    from relstab.figures.style import style

    shown = table[~table["method"].str.contains("perturbations")]
    with style(8):
        fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
        for axis, column, label in zip(
            axes, ("ratio_to_floor", "peak_mb"), ("time over three bare forward passes", "peak memory (MB)"), strict=True
        ):
            sns.barplot(shown, y="case", x=column, hue="method", ax=axis, legend=axis is axes[1])
            axis.set(xscale="log", xlabel=label, ylabel="")
        axes[0].set_xlim(0.5)
        sns.move_legend(axes[1], "upper left", bbox_to_anchor=(1, 1), title=None, frameon=False)
        fig.savefig(HERE / "sensitivity.png", dpi=150)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--time"]:
        measure_time(sys.argv[2])
    elif sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2], sys.argv[3])
    else:
        main(sys.argv[1:] or list(CASES))
