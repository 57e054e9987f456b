"""Training of LeNet, VGG11 with batch norm and ResNet18 on 32 x 32 colour images, beside the bare step and the textbook loop.

- relstab: the loop of `relstab.train_network`, with the crops, flips and normalisation of the paper's recipe;
- bare step: forward, backward and update on one batch that stays where it is, as torch lays it out and in channels_last;
- textbook: a torchvision data set of PIL images, random crop, flip, ToTensor and Normalize, a DataLoader with one worker.

Each run is a process of its own; runs of all methods take turns, and ratios are of runs in the same turn. Images per second do
not count the first steps, nor evaluation.

    python benchmarks/training.py [--device cuda] [--turns 4] [--seconds 5] [CASE ...]
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import relstab
from relstab.architectures.torchvision import torchvision
from relstab.config import Training

from timing import seconds_a_step, seconds_a_training_step, synthetic

HERE = Path(__file__).parent
CASES = {"LeNet": "lenet", "VGG11bn": "vgg11_bn", "ResNet18": "resnet18"}
METHODS = {
    "relstab, float32": ("ours", "float32"),
    "relstab, bfloat16": ("ours", "bfloat16"),
    "bare step, float32": ("bare", "contiguous", "float32"),
    "bare step, float32, channels_last": ("bare", "channels_last", "float32"),
    "bare step, bfloat16, channels_last": ("bare", "channels_last", "bfloat16"),
    "textbook": ("textbook",),
}
BATCH = 128
IMAGES = 5120
# Dense bfloat16, in 1e12 operations per second, by a part of the device's name.
PEAK = {"H100": 989, "H200": 989, "A100": 312}


def timed(step: Callable[[], None], device: str, seconds: float) -> float:
    """Images per second of steps that are repeated for some seconds, after a warm-up."""
    return BATCH / seconds_a_step(step, device, seconds, together=4)


def ours(architecture: str, device: str, seconds: float, precision: str) -> float:
    recipe = Training(precision=precision, learning_rate=1e-3, batch_size=BATCH, crop_padding=4, flip=True)
    return BATCH / seconds_a_training_step(architecture, recipe, synthetic(IMAGES), device, seconds, together=4)


def plain(architecture: str, device: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = relstab.build_model(architecture, (3, 32, 32), 10).to(device)
    return model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)


def bare(architecture: str, device: str, seconds: float, layout: str, precision: str) -> float:
    model, optimizer = plain(architecture, device)
    images, labels = torch.randn(BATCH, 3, 32, 32, device=device), torch.randint(10, (BATCH,), device=device)
    if layout == "channels_last":
        model, images = model.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bfloat16"):
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return timed(step, device, seconds)


class PilImages(torchvision.datasets.VisionDataset):
    """As torchvision's CIFAR10 gives them out."""

    def __init__(self, transform: Callable[[object], torch.Tensor]) -> None:
        super().__init__(root="", transform=transform)
        dataset = synthetic(IMAGES)
        self.data, self.targets = dataset.images["train"].transpose(0, 2, 3, 1), dataset.labels["train"].tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def textbook(architecture: str, device: str, seconds: float) -> float:
    transforms = torchvision.transforms
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.29, 0.29, 0.29)),
        ]
    )
    loader = DataLoader(PilImages(transform), BATCH, shuffle=True, num_workers=1)
    model, optimizer = plain(architecture, device)

    def endless():
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        loss.item()

    return timed(step, device, seconds)


def started(case: str, method: str, device: str, seconds: float, threads: int) -> subprocess.Popen[str]:
    options = {"--time": method, "--device": device, "--seconds": seconds, "--threads": threads}
    arguments = [str(part) for option in options.items() for part in option]
    return subprocess.Popen([sys.executable, __file__, *arguments, case], stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> float:
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, process.args))} failed")
    return float(json.loads(output.strip().splitlines()[-1]))


def operations(architecture: str) -> float:
    """Floating-point operations of one training step, for one image."""
    model = relstab.build_model(architecture, (3, 32, 32), 10)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, 32, 32)).sum().backward()
    return counter.get_total_flops() / 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--time", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device, seconds, threads = options.device, options.seconds, options.threads
    if options.time:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        name, *arguments = METHODS[options.time]
        run = {"ours": ours, "bare": bare, "textbook": textbook}[name]
        print(json.dumps(run(CASES[options.cases[0]], device, seconds, *arguments)))
        return
    where = torch.cuda.get_device_name(device) if device != "cpu" else f"{threads} CPU threads"
    peak = next((value for part, value in PEAK.items() if part in where), None)
    rows = []
    for case in options.cases:
        speeds: dict[str, list[float]] = {method: [] for method in METHODS}
        speeds["two jobs, relstab, bfloat16"] = []
        for _ in range(options.turns):
            for method in METHODS:
                speeds[method].append(result(started(case, method, device, seconds, threads)))
            # On a GPU two processes share it, on a CPU each has half of the threads.
            pair = [started(case, "relstab, bfloat16", device, seconds, max(threads // 2, 1)) for _ in range(2)]
            speeds["two jobs, relstab, bfloat16"].append(sum(result(process) for process in pair))
        bare32 = max(statistics.median(speeds[method]) for method in METHODS if method.startswith("bare step, float32"))
        best = next(method for method in METHODS if statistics.median(speeds[method]) == bare32)
        for method, values in speeds.items():
            row = {
                "case": case,
                "method": method,
                "images_per_second": round(statistics.median(values), 1),
                "to_best_bare_float32": statistics.median(a / b for a, b in zip(values, speeds[best], strict=True)),
                "to_textbook": statistics.median(a / b for a, b in zip(values, speeds["textbook"], strict=True)),
                "share_of_peak": statistics.median(values) * operations(CASES[case]) / (peak * 1e12) if peak else None,
                "device": where,
            }
            rows.append(row)
            print("{case:9} {method:36} {images_per_second:10.1f} images/s {to_best_bare_float32:6.2f} x best bare float32 "
                  "{to_textbook:6.2f} x textbook".format(**row), flush=True)  # fmt: skip
    table = pd.DataFrame(rows).round(3)
    if options.cases == list(CASES):
        table.to_csv(HERE / f"training_{device.split(':')[0]}.csv", index=False)


if __name__ == "__main__":
    main()
