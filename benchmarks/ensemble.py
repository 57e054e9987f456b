"""One epoch of ten simple CNNs on Task 2, trained at once, one after the other, and by the plain loop of torch.

- at once: `relstab.scale_detection.ensemble.Ensemble.step` of all networks, each on a batch of its own;
- one after the other: the same code, ensembles of one;
- plain loop: `SimpleCNN`, autograd and `torch.optim.SGD`, batch by batch. One network is timed, and its time multiplied by the
  number of networks.

1024 pairs in batches of 8, L = 128, xi = 32, K = 7, F = s = 2. Outputs start without their bias, and the learning rate is so
small that losses stay above zero: every step has a backward pass, which is the worst case, since `Ensemble.step` leaves it out
where no image has a loss. Methods take turns in one process; times are medians over turns, and ratios are of times in the same
turn. Data are on the device from the start.

    python benchmarks/ensemble.py [--device cpu] [--channels 100] [--networks 10] [--threads 2] [--turns 3]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from relstab.runs.allocation import kept_memory
from relstab.scale_detection.ensemble import Ensemble, initial_parameters
from relstab.scale_detection.simple_cnn import SimpleCNN, SimpleDesign
from relstab.scale_detection.tasks import ScaleTask, split_pairs

HERE = Path(__file__).parent
TASK = ScaleTask("block", 128, 32)
PAIRS = 1024
BATCH = 8
RATE = 1e-6
AT_ONCE, IN_TURN, PLAIN = "at once", "one after the other", "plain loop"


def timed(epoch: Callable[[], torch.Tensor], device: str) -> float:
    """Seconds of one epoch, which gives the least loss of its batches."""

    def now() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    least = epoch()
    seconds = now() - start
    if not float(least) > 0:
        raise RuntimeError("a batch had no loss, so that its step may have had no backward pass: lower the learning rate")
    return seconds


def ensemble_epoch(ensemble: Ensemble, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One epoch of all members, each in an order of its own."""
    members = len(ensemble)
    order = torch.stack([torch.randperm(len(images)) for _ in range(members)]).to(images.device)
    rates = torch.full((members,), RATE * ensemble.design.rate_factor, device=images.device)
    least = torch.full((), torch.inf, device=images.device)
    for chosen in order.split(BATCH, dim=1):
        loss = ensemble.step(images[chosen], labels[chosen], rates, early_exit=not images.is_cuda)
        least = torch.minimum(least, loss.min())
    return least


def plain_epoch(network: SimpleCNN, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One epoch of one network as it is usually written."""
    least = torch.full((), torch.inf, device=images.device)
    for chosen in torch.randperm(len(images)).to(images.device).split(BATCH):
        optimizer.zero_grad()
        loss = (1 - labels[chosen] * network(images[chosen, None])).clamp(min=0).mean()
        loss.backward()
        optimizer.step()
        least = torch.minimum(least, loss.detach())
    return least


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels", type=int, default=100)
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    device, count = options.device, options.networks
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if device != "cpu":
        # All methods in full precision, in which relstab trains.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    where = torch.cuda.get_device_name(device) if device != "cpu" else f"{options.threads} CPU threads"

    pairs, _ = split_pairs(TASK.enumerate(), PAIRS)
    images, labels = TASK.images(pairs.sites).flatten(1).to(device), pairs.labels.to(device, torch.float32)
    design = SimpleDesign(depth=7, filter_size=2, stride=2, channels=options.channels)
    parameters = {name: value.to(device) for name, value in initial_parameters(design, [[i] for i in range(count)]).items()}
    parameters["output_bias"].zero_()  # beyond 1 it is enough for a batch of one label to have no loss
    together = Ensemble(design, TASK.size, {name: value.clone() for name, value in parameters.items()})
    singles = [together.select(torch.tensor([member], device=device)) for member in range(count)]
    network = SimpleCNN(design).set_parameters(together.member(0)).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE * design.rate_factor)

    def in_turn() -> torch.Tensor:
        return torch.stack([ensemble_epoch(single, images, labels) for single in singles]).min()

    epochs = {
        AT_ONCE: (lambda: ensemble_epoch(together, images, labels), 1),
        IN_TURN: (in_turn, 1),
        PLAIN: (lambda: plain_epoch(network, optimizer, images, labels), count),
    }
    seconds: dict[str, list[float]] = {method: [] for method in epochs}
    with kept_memory(torch.device("cpu")):
        # One epoch each to warm up, of a single network where methods do them one by one.
        warm_up = (epochs[AT_ONCE][0], lambda: ensemble_epoch(singles[0], images, labels), epochs[PLAIN][0])
        for epoch in warm_up:
            timed(epoch, device)
        for _ in range(options.turns):
            for method, (epoch, times) in epochs.items():
                seconds[method].append(times * timed(epoch, device))

    rows = []
    for method, values in seconds.items():
        ratios = [value / least for value, least in zip(values, seconds[AT_ONCE], strict=True)]
        rows.append(
            {
                "method": method,
                "networks": count,
                "networks_timed": 1 if method == PLAIN else count,
                "channels": options.channels,
                "seconds_per_epoch": round(statistics.median(values), 4),
                "times_at_once": round(statistics.median(ratios), 2),
                "turns": options.turns,
                "device": where,
            }
        )
        print(
            "{method:20} {seconds_per_epoch:9.3f} s for an epoch of {networks} networks of {channels} channels "
            "{times_at_once:7.2f} x at once".format(**rows[-1]) + f"  (one timed, times {count})" * (method == PLAIN)
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(HERE / ("ensemble.csv" if device == "cpu" else "ensemble_cuda.csv"), index=False)


if __name__ == "__main__":
    main()
