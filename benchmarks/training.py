"""Training of five networks on 32 x 32 colour images, in relstab's loop and in others, side by side.

- relstab: the loop of `relstab.train_network`, with the crops, flips and normalisation of the paper's recipe;
- textbook: a torchvision data set of PIL images, its transforms, a DataLoader with workers (on a CPU: one);
- plain loop, on a GPU: images on the device, the same crops and flips, torch's own optimizer, no wait in a step;
- bare step, on a CPU: forward, backward and update on one batch that stays where it is.

On a GPU, loops are compared in the same precision with the same flags, those of relstab: deterministic convolutions, and no TF32
in float32; and once more as torch comes, with TF32 in convolutions. On a CPU, each run is a process of its own. All methods
take turns, and ratios are of runs in the same turn. Images per second do not count the first steps, nor evaluation.

On a GPU, the hours of the training runs of --grid that have the architectures measured here stand at the end, without evaluation.

    python benchmarks/training.py [--device cuda] [--turns 4] [--seconds 5] [--grid configs/paper.yaml] [CASE ...]
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional

import relstab
from relstab.architectures import ARCHITECTURES
from relstab.runs.devices import repeatable

import loops
from grid import config_of, deep_networks
from loops import BATCH
from timing import seconds_a_step

HERE = Path(__file__).parent
CASES = {"LeNet": "lenet", "FC-4": "fc4", "VGG11bn": "vgg11_bn", "ResNet18": "resnet18", "EfficientNetB0": "efficientnet_b0"}
# Images of the training set: of few, a CPU sees none twice in a measurement.
IMAGES = {"cpu": 5120, "cuda": 50_000}


def bare(name: str, device: str, seconds: float, layout: str, precision: str) -> float:
    model = relstab.build_model(name, loops.SHAPE, 10).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    images, labels = torch.randn(BATCH, *loops.SHAPE, device=device), torch.randint(10, (BATCH,), device=device)
    if layout == "channels_last":
        model, images = model.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bfloat16"):
            loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return BATCH / seconds_a_step(step, device, seconds, together=4)


def textbook(name: str, device: str, seconds: float, precision: str, workers: int) -> float:
    return loops.textbook(name, device, seconds, precision, IMAGES[device.split(":")[0]], workers)


def plain(name: str, device: str, seconds: float, precision: str) -> float:
    return loops.plain(name, device, seconds, precision, IMAGES[device.split(":")[0]])


def ours(name: str, device: str, seconds: float, precision: str, graph: bool = True) -> float:
    return loops.ours(name, device, seconds, precision, IMAGES[device.split(":")[0]], graph)


# Each with its precision, and whether relstab's flags are set.
Method = tuple[Callable[..., float], tuple[object, ...], str, bool]
ON_CPU: dict[str, Method] = {
    "relstab, float32": (ours, ("float32",), "float32", True),
    "relstab, bfloat16": (ours, ("bfloat16",), "bfloat16", True),
    "bare step, float32": (bare, ("contiguous", "float32"), "float32", True),
    "bare step, float32, channels_last": (bare, ("channels_last", "float32"), "float32", True),
    "bare step, bfloat16, channels_last": (bare, ("channels_last", "bfloat16"), "bfloat16", True),
    "textbook": (textbook, ("float32", 1), "float32", True),
}
ON_GPU: dict[str, Method] = {
    "relstab, bfloat16": (ours, ("bfloat16",), "bfloat16", True),
    "relstab, bfloat16, without graphs": (ours, ("bfloat16", False), "bfloat16", True),
    "plain loop, bfloat16": (plain, ("bfloat16",), "bfloat16", True),
    "textbook, bfloat16": (textbook, ("bfloat16", loops.workers()), "bfloat16", True),
    "relstab, float32": (ours, ("float32",), "float32", True),
    "plain loop, float32": (plain, ("float32",), "float32", True),
    "textbook, float32": (textbook, ("float32", loops.workers()), "float32", True),
    "plain loop, as torch comes": (plain, ("float32",), "TF32", False),
    "textbook, as torch comes": (textbook, ("float32", loops.workers()), "TF32", False),
}


def started(case: str, method: str, device: str, seconds: float, threads: int) -> subprocess.Popen[str]:
    options = {"--time": method, "--device": device, "--seconds": seconds, "--threads": threads}
    arguments = [str(part) for option in options.items() for part in option]
    return subprocess.Popen([sys.executable, __file__, *arguments, case], stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> float:
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, process.args))} failed")
    return float(json.loads(output.strip().splitlines()[-1]))


def on_gpu(case: str, method: str, device: str, seconds: float) -> float:
    loop, arguments, _, flags = ON_GPU[method]
    with repeatable(torch.device(device)) if flags else contextlib.nullcontext():
        return loop(CASES[case], device, seconds, *arguments)


def measured(case: str, device: str, turns: int, seconds: float, threads: int) -> dict[str, list[float]]:
    """Images per second of each method, at each turn."""
    if device != "cpu":
        speeds: dict[str, list[float]] = {method: [] for method in ON_GPU}
        for _ in range(turns):
            for method, values in speeds.items():
                values.append(on_gpu(case, method, device, seconds))
        return speeds
    speeds = {method: [] for method in [*ON_CPU, "two jobs, relstab, bfloat16"]}
    for _ in range(turns):
        for method in ON_CPU:
            speeds[method].append(result(started(case, method, device, seconds, threads)))
        # Each has half of the threads.
        pair = [started(case, "relstab, bfloat16", device, seconds, max(threads // 2, 1)) for _ in range(2)]
        speeds["two jobs, relstab, bfloat16"].append(sum(result(process) for process in pair))
    return speeds


def ratio(speeds: dict[str, list[float]], method: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(speeds[method], speeds[other], strict=True))


def peers(speeds: dict[str, list[float]], method: str, on_cpu: bool) -> dict[str, str]:
    """Methods that another is compared with, by the column of the ratio."""
    if not on_cpu:
        setting = "as torch comes" if method.endswith("as torch comes") else ON_GPU[method][2]
        return {"to_textbook": f"textbook, {setting}", "to_plain_loop": f"plain loop, {setting}"}
    bare32 = [name for name in speeds if name.startswith("bare step, float32")]
    return {"to_best_bare_float32": max(bare32, key=lambda name: statistics.median(speeds[name])), "to_textbook": "textbook"}


def rows_of(case: str, speeds: dict[str, list[float]], device: str, where: str) -> list[dict[str, object]]:
    """Rows of the table, which are printed."""
    rows = []
    for method, values in speeds.items():
        median = statistics.median(values)
        row: dict[str, object] = {"case": case, "method": method, "images_per_second": round(median, 1)}
        row |= {column: ratio(speeds, method, other) for column, other in peers(speeds, method, device == "cpu").items()}
        precision = (ON_GPU if device != "cpu" else ON_CPU).get(method, (None, (), "bfloat16"))[2]
        top = loops.peak(device, precision)
        row |= {"share_of_peak": median * loops.operations(CASES[case]) / top if top else None, "device": where}
        rows.append(row)
        ratios = "  ".join(f"{key} {row[key]:6.2f}" for key in row if key.startswith("to_"))
        share = f"  {row['share_of_peak']:.2%} of the peak in {precision}" if top else ""
        print(f"{case:15} {method:36} {median:11,.1f} images/s  {ratios}{share}", flush=True)
    return rows


def hours(file: str, rows: list[dict[str, object]]) -> None:
    """Of the training runs of a config that have the architectures measured here, by method."""
    groups = [group for group in deep_networks(config_of(file)) if group.kind == "data set"]
    names = {CASES[str(row["case"])] for row in rows}
    those = [group for group in groups if group.name in names]
    counted = sum(group.networks for group in those)
    labels = ", ".join(dict.fromkeys(ARCHITECTURES[group.name].label for group in those))
    print(f"{file}: hours of {counted} of its {sum(group.networks for group in groups)} networks ({labels}), without evaluation")
    table = pd.DataFrame(rows)
    for method in table["method"].unique():
        speed = table[table["method"] == method].set_index("case")["images_per_second"].rename(index=CASES)
        total = sum(group.steps * group.recipe.batch_size / speed[group.name] for group in those)
        print(f"  {method:36} {total / 3600:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--grid", default=str(HERE.parent / "configs/paper.yaml"))
    parser.add_argument("--time", choices=ON_CPU, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"expected cases among {', '.join(CASES)}, got {', '.join(sorted(unknown))}")
    device, seconds, threads = options.device, options.seconds, options.threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if options.time:
        loop, arguments, _, _ = ON_CPU[options.time]
        print(json.dumps(loop(CASES[options.cases[0]], device, seconds, *arguments)))
        return
    where = loops.name_of(device)
    rows = []
    for case in options.cases:
        rows += rows_of(case, measured(case, device, options.turns, seconds, threads), device, where)
    table = pd.DataFrame(rows).round(4)
    if options.cases == list(CASES):
        table.to_csv(HERE / f"training_{device.split(':')[0]}.csv", index=False)
    if device != "cpu":
        hours(options.grid, rows)


if __name__ == "__main__":
    main()
