"""Is this GPU right, and how far from its peak? Each number stands beside what a model of an H100 predicts.

    python benchmarks/gpu_check.py [--minutes 20] [--device cuda] [--quick] [PART ...]

Parts, of which each has a share of the minutes; a part that fails prints one line, and the next one runs:

- card: the card, its driver, and what torch was built for;
- repeat: a training run gives the same weights twice, from a checkpoint in mid-epoch, and without CUDA graphs;
- measure: D, G and R in float32 against float64 on the CPU, also where the user has turned on TF32;
- speed: images per second of three loops, share of the peak, kernels per step, and the hours of `configs/paper.yaml`;
- rings: simple CNNs with and without a CUDA graph;
- together: several training runs on one card at once, in one process, and whether each gives the weights that it gives alone;
- shared: the same in a process each.

The predictions are those of a roofline per kernel, with 6 microseconds per launch; nothing was measured for them.
`--device cpu --quick` runs all with tiny sizes, to test this script.
"""

import argparse
import contextlib
import copy
import io
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import relstab
from relstab import sensitivity
from relstab.architectures import ARCHITECTURES
from relstab.runs.devices import repeatable
from relstab.scale_detection import ensemble_steps, ensemble_training
from relstab.scale_detection.design import EnsembleRecipe, SimpleDesign
from relstab.scale_detection.tasks import ScaleTask, split_pairs
from relstab.training import train as training
from relstab.training.checkpoint import Checkpoint
from relstab.training.together import train_networks
from relstab.training.training_run import TrainingRun

import loops
from grid import config_of, deep_networks
from timing import Rates, done_at, in_training, next_step, rates_of_training, seconds_a_step, synthetic

ROOT = Path(__file__).parents[1]

# Predictions for an H100, in batches of 128: kernels per step; images per second of relstab's step, kernel by kernel and as a
# graph, and of the plain loop.
KERNELS = {
    "fc2": 65, "fc4": 85, "fc6": 105, "lenet": 88, "alexnet": 135, "vgg11": 145, "vgg11_bn": 185, "vgg19_bn": 314,
    "resnet18": 298, "resnet34": 508, "resnet50": 711, "efficientnet_b0": 1217,
}  # fmt: skip
EAGER = {
    "fc2": 328e3, "fc6": 203e3, "lenet": 242e3, "alexnet": 158e3, "vgg11": 147e3, "vgg11_bn": 115e3, "vgg19_bn": 68e3,
    "resnet18": 61e3, "resnet34": 33e3, "resnet50": 19e3, "efficientnet_b0": 17.5e3,
}  # fmt: skip
GRAPH = {
    "fc2": 1056e3, "fc6": 622e3, "lenet": 753e3, "alexnet": 240e3, "vgg11": 190e3, "vgg11_bn": 163e3, "vgg19_bn": 79e3,
    "resnet18": 61e3, "resnet34": 33e3, "resnet50": 19e3, "efficientnet_b0": 44e3,
}  # fmt: skip
PLAIN = {
    "fc2": 970e3, "fc6": 464e3, "lenet": 496e3, "alexnet": 227e3, "vgg11": 114e3, "vgg11_bn": 99e3, "vgg19_bn": 43e3,
    "resnet18": 29e3, "resnet34": 15e3, "resnet50": 9e3, "efficientnet_b0": 21e3,
}  # fmt: skip
PAPER = [*KERNELS, "vgg16_bn"]
PAPER_HOURS = "20 with graphs, 36 without"
# Those that the benchmark compares come first, and one of each family.
ORDER = ["lenet", "resnet18", "vgg11_bn", "efficientnet_b0", "fc4", "alexnet", "vgg11", "resnet50"]
MAIN = ["lenet", "fc4", "vgg11_bn", "resnet18", "efficientnet_b0"]


class OutOfTimeError(Exception):
    """A part took its share of the minutes."""


@dataclass
class Check:
    """What the parts know and share.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        quick: tiny sizes.
        ends: when the part is to end, by the clock of time.monotonic.
        names: architectures, the most telling first.
    """

    device: str
    quick: bool
    ends: float = 0.0
    names: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds of the part that are left."""
        return self.ends - time.monotonic()


def say(text: str, predicted: str = "") -> None:
    print(f"  {text}" + (f"   [predicted: {predicted}]" if predicted else ""), flush=True)


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


@contextlib.contextmanager
def silent() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def each(check: Check, names: list[str], work: Callable[[str], None]) -> None:
    """``work`` for each architecture while there is time; a failure prints one line."""
    longest = 0.0
    for index, name in enumerate(names):
        if check.left < longest:
            say(f"no time for {', '.join(names[index:])}")
            return
        start = time.monotonic()
        try:
            work(name)
        except OutOfTimeError:
            raise
        except Exception as error:
            say(f"{name:16} FAILED: {one_line(error)}")
        longest = max(longest, time.monotonic() - start)


# card


def card(check: Check) -> None:
    cuda = torch.version.cuda
    say(f"torch {torch.__version__}, CUDA {cuda}, cuDNN {torch.backends.cudnn.version()}, {loops.workers()} DataLoader workers")
    if check.device == "cpu":
        say(loops.name_of("cpu"))
        return
    properties = torch.cuda.get_device_properties(check.device)
    say(f"{properties.name}, sm_{properties.major}{properties.minor}, {properties.total_memory / 2**30:.0f} GiB")
    say(f"torch has code for {' '.join(torch.cuda.get_arch_list())}")
    query = "driver_version,clocks.max.sm,power.limit,utilization.gpu,memory.used"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    say(f"{query}: {subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()}")


# repeat


def small_run(check: Check, name: str, work: Callable[[TrainingRun], Any] | None = None) -> dict[str, Tensor]:
    """Weights after two epochs with noise and a smaller last batch; ``work``, if given, in the place of the loop."""
    size = 16 if check.quick else 64
    options = {**ARCHITECTURES[name].recipe, "epochs": 2, "width": 0.25, "batch_size": size, "learning_rate": 1e-3}
    recipe = loops.recipe("auto", **options)
    loop = training._train

    def whole(run: TrainingRun) -> dict[str, Tensor]:
        if work is None:
            loop(run, lambda: None)
        else:
            work(run)
        return run.network.states["last"]

    with silent():
        return in_training(name, recipe, synthetic(8 * size + 8), check.device, whole, 64, sigma=1.0)


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> str:
    if all(torch.equal(value, other[name]) for name, value in one.items()):
        return "same"
    worst = max(float((value.double() - other[name].double()).abs().max()) for name, value in one.items())
    return f"OFF by {worst:.1e}"


def repeat(check: Check) -> None:
    loop, kept = training._train, []

    def keeps(run: TrainingRun) -> None:
        """The loop, with a checkpoint in the middle of the second epoch."""
        middle = run.steps_per_epoch + run.steps_per_epoch // 3

        def maybe_save() -> None:
            if run.step_number == middle and not kept:
                saved = run.checkpoint()
                tensors = {name: value.detach().cpu().clone() for name, value in saved.tensors.items()}
                kept.append(Checkpoint(tensors, copy.deepcopy(saved.values)))

        loop(run, maybe_save)

    def resumes(run: TrainingRun) -> None:
        run.restore(kept.pop())
        loop(run, lambda: None)

    def work(name: str) -> None:
        kept.clear()
        first, second, resumed = small_run(check, name), small_run(check, name, keeps), small_run(check, name, resumes)
        with loops.graphs(False):
            eager = small_run(check, name)
        say(
            f"{name:16} twice {difference(first, second)}, from a checkpoint {difference(first, resumed)}, "
            f"without graphs {difference(first, eager)}",
            "same, same, same",
        )

    each(check, check.names, work)


# measure


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """TF32 wherever torch may use it, as some users and NVIDIA's containers set it."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


@contextlib.contextmanager
def unprotected() -> Iterator[None]:
    """Inside, measuring leaves torch's flags as they are."""
    if not hasattr(sensitivity, "repeatable"):
        yield
        return
    with mock.patch.object(sensitivity, "repeatable", return_value=contextlib.nullcontext()):
        yield


def converted(probes: relstab.Probes, to: str | torch.dtype) -> relstab.Probes:
    """Probes on a device, or of a dtype."""
    return relstab.Probes(probes.images.to(to), probes.deformed.to(to), probes.noisy.to(to))


def measure(check: Check) -> None:
    count, width = (6, 0.1) if check.quick else (64, 0.5)
    for name in ["lenet"] if check.quick else ["lenet", "resnet18", "efficientnet_b0"]:
        torch.manual_seed(0)
        model = relstab.build_model(name, loops.SHAPE, 10, width).eval()
        generator = torch.Generator().manual_seed(0)
        images = torch.nn.functional.interpolate(torch.randn(count, 3, 8, 8, generator=generator), 32, mode="bicubic")
        relstab.estimate_batch_statistics(model, images)
        for displacement in (1.0, 0.1):
            with warnings.catch_warnings(action="ignore"):  # 0.1 pixels are few
                probes = relstab.make_probes(images, displacement, 3, generator=torch.Generator().manual_seed(1))
            double = converted(probes, torch.float64)
            exact = relstab.measure_sensitivity(copy.deepcopy(model).double(), double, batch_size=8)["R"]

            def error(given: relstab.Probes, dtype: torch.dtype, model=model, exact=exact) -> str:
                network = copy.deepcopy(model).to(check.device, dtype)
                found = relstab.measure_sensitivity(network, converted(given, check.device), batch_size=8)["R"]
                return f"{np.nanmax(np.abs(found / exact - 1)):.1e}"

            texts = [f"float64 {error(double, torch.float64)}", f"float32 {error(probes, torch.float32)}"]
            with tf32():
                texts.append(f"float32 where the user has turned on TF32 {error(probes, torch.float32)}")
                with unprotected():
                    texts.append(f"TF32 itself {error(probes, torch.float32)}")
            say(
                f"{name}, displacement {displacement:g}: worst relative error of R in {', in '.join(texts)}",
                f"1e-12, 1e-6, the same, {'1e-3' if displacement == 1 else '1e-2'}",
            )
            if check.left < 0:
                return
    if check.device != "cpu":
        _flags(check)


def _flags(check: Check) -> None:
    """The flags inside, set by torch's own new interface, and whether they are as before afterwards."""
    backends: Any = torch.backends
    a, b = (torch.randn(512, 512, device=check.device) for _ in range(2))
    exact = a.double() @ b.double()
    before = backends.fp32_precision
    try:
        backends.fp32_precision = "tf32"
        outside = float((a @ b - exact).abs().max())
        with repeatable(torch.device(check.device)):
            inside = float((a @ b - exact).abs().max())
        after = float((a @ b - exact).abs().max())
    finally:
        backends.fp32_precision = before
    say(
        f'error of a product under torch.backends.fp32_precision = "tf32": {outside:.0e}, while networks run {inside:.0e}, '
        f"after it {after:.0e}",
        "3e-2, 5e-5, 3e-2",
    )


# speed


def kernels(check: Check, name: str, images: int) -> str:
    """Kernels per step, and the share of the time in which one runs, of steps without a graph."""
    from torch.profiler import ProfilerActivity, profile

    def work(run: TrainingRun) -> tuple[float, float, float]:
        wall = seconds_a_step(lambda: next_step(run), check.device, 0.2, together=10)
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            for _ in range(10):
                next_step(run)
            torch.cuda.synchronize()
        events = [event for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        return len(events) / 10, sum(event.device_time for event in events) / 10 / 1e6, wall

    with loops.graphs(False):
        count, busy, wall = in_training(name, loops.recipe("auto"), synthetic(images), check.device, work)
    return f"{count:.0f} kernels in {1e3 * busy:.2f} ms of {1e3 * wall:.2f} ms"


def rate(number: float | None) -> str:
    return "not known" if number is None else f"{number:,.0f}"


def speed(check: Check) -> None:
    images, seconds = (256, 0.0) if check.quick else (25_600, 0.7)
    device, processes = check.device, 0 if check.quick else loops.workers()
    found: dict[str, Rates] = {}

    def ours(name: str) -> None:
        # Its own recipe, at a learning rate at which nothing diverges on noise.
        recipe = loops.recipe("auto", **{**ARCHITECTURES[name].recipe, "learning_rate": 1e-3})
        test_images = 200 if check.quick else 10_000
        rates = rates_of_training(name, recipe, synthetic(images), device, seconds, test_images, together=20)
        found[name], precision = rates, rates.precision
        trained, top = loops.BATCH / rates.step, loops.peak(device, precision)
        share = f", {trained * loops.operations(name) / top:.1%} of the peak" if top else ""
        say(
            f"{name:16} {trained:11,.0f} images/s in {precision}{share}; evaluates {1 / rates.evaluation:,.0f}",
            rate(GRAPH.get(name)),
        )

    def others(name: str) -> None:
        with repeatable(torch.device(device)):
            eager = loops.ours(name, device, seconds, "bfloat16", images, graph=False)
            graph = loops.ours(name, device, seconds, "bfloat16", images)
            plain = loops.plain(name, device, seconds, "bfloat16", images)
        free = loops.plain(name, device, seconds, "bfloat16", images)
        say(
            f"{name:16} in bfloat16: relstab {graph:,.0f}, without graphs {eager:,.0f}, plain loop {plain:,.0f}, "
            f"and {free:,.0f} without deterministic convolutions",
            f"{rate(GRAPH.get(name))}, {rate(EAGER.get(name))}, {rate(PLAIN.get(name))}",
        )
        if device != "cpu":
            say(f"{name:16} {kernels(check, name, images)}", f"{KERNELS[name]} kernels")

    def loader(name: str) -> None:
        found = loops.textbook(name, device, 3 * seconds, "bfloat16", images, processes)
        say(f"{name:16} textbook loop, {processes} workers, in bfloat16: {found:,.0f} images/s")

    each(check, ["lenet"] if check.quick else [*MAIN, *(name for name in PAPER if name not in MAIN)], ours)
    main = [name for name in MAIN if name in check.names]
    each(check, main, others)
    each(check, [name for name in ("lenet", "resnet18") if name in check.names], loader)
    hours(found)


def hours(rates: dict[str, Rates]) -> None:
    """Of the trainings of the paper's config on its data set, from images per second of training and evaluation."""
    total, measured, networks = 0.0, 0, 0
    for group in deep_networks(config_of(str(ROOT / "configs/paper.yaml"))):
        if group.kind != "data set":
            continue
        networks += group.networks
        if group.name in rates:
            measured += group.networks
            total += (group.steps * rates[group.name].step + group.evaluated * rates[group.name].evaluation) / 3600
    say(
        f"configs/paper.yaml: {total:.1f} hours for the {measured} of {networks} networks measured here, one at a time",
        PAPER_HOURS,
    )


# rings


def rings(check: Check) -> None:
    cases = {
        "strided, H = 100": (ScaleTask("block", 128, 32), SimpleDesign(7, 2, 2, 100), "0.5 and 0.2 ms"),
        "strided, H = 1000": (ScaleTask("block", 128, 32), SimpleDesign(7, 2, 2, 1000), "2.1 and 2.1 ms"),
        "stride 1, H = 1000": (ScaleTask("distance", 128, 32, gap=4), SimpleDesign(8, 5, 1, 1000), "50 and 50 ms"),
    }
    if check.quick:
        cases = {"strided, H = 4": (ScaleTask("block", 16, 4), SimpleDesign(3, 2, 2, 4), "")}
    for title, (task, design, predicted) in cases.items():
        pairs, _ = split_pairs(task.enumerate(), 32 if check.quick else 256)
        recipe = EnsembleRecipe(epochs=2, batch_size=8)
        timed: list[tuple[float, dict[str, Tensor]]] = []

        def instead(run: ensemble_training._EnsembleRun, maybe_save: Callable[[], None], timed=timed) -> None:
            run.run_epoch(maybe_save)
            start = done_at(check.device)
            run.run_epoch(maybe_save)
            seconds = done_at(check.device) - start
            weights = {name: value.clone() for name, value in run.ensemble.parameters.items()}
            timed.append((1e3 * seconds / run.steps_per_epoch, weights))

        for graph in (False, check.device != "cpu"):

            def steps(*arguments: Any, graph: bool = graph) -> ensemble_steps.EnsembleSteps:
                return ensemble_steps.EnsembleSteps(*arguments, graph=graph)

            with (
                silent(),
                mock.patch.object(ensemble_training, "EnsembleSteps", steps),
                mock.patch.object(ensemble_training, "_train", instead),
            ):
                ensemble_training.train_ensemble(task, pairs, design, recipe, range(10), device=check.device)
        (eager, one), (graphed, other) = timed
        say(
            f"ten networks, {title}: {eager:.2f} ms per step, {graphed:.2f} ms with a graph; weights {difference(one, other)}",
            f"{predicted}; same",
        )
        if check.left < 0:
            return


# together


def together(check: Check) -> None:
    images = 64 if check.quick else 12_800
    small, large = (1, 1) if check.quick else (20, 6)
    test = torch.zeros(100, *loops.SHAPE), torch.arange(100) % 10

    def arguments(name: str, seed: int, epochs: int, width: float = 1.0) -> dict[str, Any]:
        options = {**ARCHITECTURES[name].recipe, "learning_rate": 1e-3, "epochs": epochs, "width": width}
        recipe = loops.recipe("auto", **{**options, "batch_size": 16 if check.quick else loops.BATCH})
        return {
            "architecture": name, "dataset": synthetic(images), "test": test, "recipe": recipe, "sigma": 0.0, "seed": seed
        }  # fmt: skip

    def same(names: list[str]) -> str:
        """Whether networks have the weights together that they have alone."""
        several = [arguments(name, seed, 2, 0.25) for seed, name in enumerate(names)]
        with silent():
            found = train_networks(several, check.device)
            alone = [relstab.train_network(**one, device=check.device) for one in several]
        pairs = zip(found, alone, strict=True)
        return ", ".join(f"{one.key.architecture} {difference(one.states['last'], other.states['last'])}" for one, other in pairs)

    def work(name: str) -> None:
        epochs = small if name in ("lenet", "fc4") else large
        rates = []
        for count in (1, 2) if check.quick else (1, 4, 8):
            times = []
            for number in (1, 1 + epochs):  # what is not steps takes as long in a run of one epoch
                networks = [arguments(name, seed, number) for seed in range(count)]
                start = done_at(check.device)
                with silent():
                    train_networks(networks, check.device)
                times.append(done_at(check.device) - start)
            few, many = times
            rates.append(f"{count} at once {count * epochs * images / (many - few):,.0f} images/s")
        predicted = "8 give 5 to 8 times as many as 1" if name in ("lenet", "fc4") else "8 give 1.1 to 1.6 times as many as 1"
        say(f"{name:16} {', '.join(rates)}", predicted)

    names = ["lenet"] if check.quick else ["lenet", "fc4", "resnet18", "vgg11_bn"]
    say(f"weights of networks trained together and alone: {same([*names, names[0]])}", "same")
    each(check, names, work)


# shared


def shared(check: Check) -> None:
    """Processes with one training run each, started together; several kernels of one process at once need one process."""
    if check.device == "cpu":
        say("not on a CPU")
        return
    longest = 20.0
    for name in ("lenet", "resnet18", "vgg11_bn"):
        for count in (1, 4, 8):
            if check.left < longest:
                say(f"no time for {count} training runs of {name} at once, and what would follow")
                return
            start = time.monotonic()
            command = [sys.executable, __file__, "--one", name, "--device", check.device]
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            runs = [subprocess.Popen(command, text=True, **pipes) for _ in range(count)]
            try:
                for run in runs:
                    if not run.stdout.readline():  # "ready"
                        raise RuntimeError(run.communicate()[1].strip().rpartition("\n")[2])
                waited = time.monotonic() - start
                for run in runs:
                    run.stdin.write("go\n")
                    run.stdin.flush()
                outputs = [run.communicate() for run in runs]
            finally:
                for run in runs:
                    run.kill()
            total = sum(float(output) for output, _ in outputs)
            say(
                f"{count} training runs of {name} at once: {total:,.0f} images/s together; ready after {waited:.0f} s",
                "small ones 2 times, others 1.1 times as many as 1" if count > 1 else "",
            )
            longest = max(longest, 1.2 * (time.monotonic() - start))


def one(name: str, device: str) -> None:
    """A training run of :func:`shared`: says when it is ready, waits for the word, and gives images per second of 3 seconds."""

    def work(run: TrainingRun) -> float:
        for _ in range(10):
            next_step(run)
        torch.cuda.synchronize()
        print("ready", file=sys.__stdout__, flush=True)
        sys.stdin.readline()
        return loops.BATCH / seconds_a_step(lambda: next_step(run), device, 3.0, together=20)

    print(in_training(name, loops.recipe("auto"), synthetic(25_600), device, work))


# Share of the minutes of each.
PARTS: dict[str, tuple[Callable[[Check], None], float]] = {
    "card": (card, 0.05),
    "repeat": (repeat, 0.25),
    "measure": (measure, 0.15),
    "rings": (rings, 0.1),
    "speed": (speed, 0.4),
    "together": (together, 0.15),
    "shared": (shared, 0.3),
}


def run_part(name: str, check: Check, seconds: float) -> None:
    """One part, with a line at its end; it ends after ``seconds``, when the step that it is in is over."""
    part, _ = PARTS[name]
    start = time.monotonic()
    check.ends = start + seconds

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 1.2 * seconds + 5)
    print(name, flush=True)
    try:
        part(check)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    except OutOfTimeError:
        print(f"{name}: STOPPED after {time.monotonic() - start:.0f} s, its share of the minutes", flush=True)
    except Exception as error:
        print(f"{name}: FAILED: {one_line(error)}", flush=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test this script")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"expected parts among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} finds no GPU here")
    if options.one:
        one(options.one, options.device)
        return
    names = ["lenet"] if options.quick else [*ORDER, *(name for name in ARCHITECTURES if name not in ORDER)]
    check = Check(options.device, options.quick, names=names)
    chosen = options.parts or list(PARTS)
    ends = time.monotonic() + 60 * options.minutes
    for index, name in enumerate(chosen):
        # What earlier parts have left is shared by the others.
        share = PARTS[name][1] / sum(PARTS[other][1] for other in chosen[index:])
        run_part(name, check, max(5.0, share * (ends - time.monotonic())))


if __name__ == "__main__":
    main()
