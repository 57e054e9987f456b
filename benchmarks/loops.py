"""Three loops that train the same network on the same images: the textbook's, a plain one with the data on the device, relstab's.

All have random crops, flips and normalisation, and SGD with momentum. `LOOPS` says what each does; each gives images per second.

- textbook: a torchvision data set of PIL images, its transforms, a DataLoader with workers, the loss fetched at every step;
- plain: images on the device, augmented there by relstab's own function, torch's own optimizer, no wait in a step;
- relstab: the loop of `relstab.train_network`, with or without CUDA graphs.

In bfloat16, the first two use autocast and channels_last, as guides to torch recommend. The flags of torch are the caller's.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import relstab
from relstab.architectures.torchvision import torchvision
from relstab.config import Training
from relstab.files.dataset import normalisation, normalise_with
from relstab.training import training_run
from relstab.training.augmentation import crop_and_flip

from timing import seconds_a_step, seconds_a_training_step, synthetic

BATCH = 128
SHAPE = (3, 32, 32)
MEAN, STD = 0.5, 0.29

# Dense operations per second, in 1e12, by a part of the device's name: bfloat16, TF32 and float32 (NVIDIA's data sheets).
PEAKS = {
    "H200": {"bfloat16": 989, "TF32": 495, "float32": 67},
    "H100": {"bfloat16": 989, "TF32": 495, "float32": 67},
    "A100": {"bfloat16": 312, "TF32": 156, "float32": 19.5},
}


def name_of(device: str) -> str:
    """The card's name, or the threads of the CPU."""
    return torch.cuda.get_device_name(device) if device != "cpu" else f"{torch.get_num_threads()} CPU threads"


def peak(device: str, precision: str) -> float | None:
    """Dense operations per second of the device; None where they are not known."""
    found = next((peaks for part, peaks in PEAKS.items() if part in name_of(device)), None)
    return found[precision] * 1e12 if found else None


def workers() -> int:
    """Processes of a DataLoader: one per core, but for the core of the loop itself."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@functools.cache
def operations(name: str, batch: int = 2) -> float:
    """Floating-point operations of a training step, per image, as torch counts them: convolutions and matrix products."""
    model = relstab.build_model(name, SHAPE, 10)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(batch, *SHAPE)).sum().backward()
    return counter.get_total_flops() / batch


def _network(name: str, device: str, precision: str) -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.memory_format]:
    layout = torch.channels_last if precision == "bfloat16" else torch.contiguous_format
    model = relstab.build_model(name, SHAPE, 10).to(device, memory_format=layout).train()
    return model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4), layout


def _autocast(device: str, precision: str) -> torch.autocast:
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bfloat16")


class PilImages(torchvision.datasets.VisionDataset):
    """Images of noise, given out as torchvision's CIFAR10 gives out its own."""

    def __init__(self, count: int) -> None:
        transforms = torchvision.transforms
        crop, flip = transforms.RandomCrop(SHAPE[1], padding=4), transforms.RandomHorizontalFlip()
        normalise = transforms.Normalize([MEAN] * SHAPE[0], [STD] * SHAPE[0])
        super().__init__(root="", transform=transforms.Compose([crop, flip, transforms.ToTensor(), normalise]))
        dataset = synthetic(count)
        self.data, self.targets = dataset.images["train"].transpose(0, 2, 3, 1), dataset.labels["train"].tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


@functools.cache
def _loader(count: int, processes: int, pinned: bool) -> DataLoader[Any]:
    """One for all networks: its processes stay."""
    ahead = {"persistent_workers": True, "prefetch_factor": 4} if processes else {}
    return DataLoader(PilImages(count), BATCH, shuffle=True, drop_last=True, num_workers=processes, pin_memory=pinned, **ahead)


def textbook(name: str, device: str, seconds: float, precision: str, images: int, processes: int) -> float:
    model, optimizer, layout = _network(name, device, precision)
    loader = _loader(images, processes, device != "cpu")

    def endless() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        batch, labels = next(batches)
        batch, labels = batch.to(device, non_blocking=True, memory_format=layout), labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        with _autocast(device, precision):
            loss = functional.cross_entropy(model(batch), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return BATCH / seconds_a_step(step, device, seconds, together=4)


def plain(name: str, device: str, seconds: float, precision: str, images: int) -> float:
    model, optimizer, layout = _network(name, device, precision)
    dataset = synthetic(images)
    pixels, labels = (torch.from_numpy(part["train"]).to(device) for part in (dataset.images, dataset.labels))
    factors = normalisation(dataset, torch.device(device))
    generator = torch.Generator(device).manual_seed(0)
    total = torch.zeros((), device=device)
    order, done = torch.randperm(images, device=device), 0

    def step() -> None:
        nonlocal order, done
        if (done + 1) * BATCH > images:
            order, done = torch.randperm(images, device=device), 0
        chosen = order[done * BATCH : (done + 1) * BATCH]
        batch = crop_and_flip(pixels[chosen], 4, True, generator)
        batch = normalise_with(batch.contiguous(memory_format=layout), *factors)
        optimizer.zero_grad()
        with _autocast(device, precision):
            loss = functional.cross_entropy(model(batch), labels[chosen])
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())
        done += 1

    return BATCH / seconds_a_step(step, device, seconds, together=4)


@contextlib.contextmanager
def graphs(allowed: bool) -> Iterator[None]:
    """Inside, training runs capture their steps as CUDA graphs where they can, or never do."""
    if allowed or not hasattr(training_run, "graphs_are_possible"):
        yield
        return
    with mock.patch.object(training_run, "graphs_are_possible", return_value=False):
        yield


def recipe(precision: str, **options: Any) -> Training:
    """The paper's augmentation, at a learning rate at which nothing diverges on noise."""
    return Training(
        **{"precision": precision, "learning_rate": 1e-3, "batch_size": BATCH, "crop_padding": 4, "flip": True, **options}
    )


def ours(name: str, device: str, seconds: float, precision: str, images: int, graph: bool = True) -> float:
    with graphs(graph):
        return BATCH / seconds_a_training_step(name, recipe(precision), synthetic(images), device, seconds, together=4)
