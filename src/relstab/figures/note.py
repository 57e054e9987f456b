"""What a figure is about, in a line below it: the data set, the number P of probes, the seeds."""

from relstab.config import IMAGENET, Config
from relstab.figures import FigureEntry

__all__ = ["figure_note"]


_MEASURED = {"sensitivity", "over_training", "sensitivity_sweep"}


def _counted(numbers: set[int], noun: str) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,} {noun}{'' if high == 1 else 's'}" if low == high else f"{low:,} to {high:,} {noun}s"


def figure_note(entry: FigureEntry, config: Config) -> str:
    """The line below a figure of a run; "" for figures that show no measurement."""
    tables, scale = set(entry.tables.values()), config.scale_detection
    if any(name.startswith("imagenet") for name in tables):
        probes = f", P = {config.imagenet.probes:,} probes" if "imagenet_sensitivity" in tables else ""
        return f"{IMAGENET}{probes}"
    if "scale_detection_networks" in tables:
        seeds = {len(scale.images.seeds_of(name)) for name in scale.architectures}
        images = _counted({scale.images.train_pairs}, "training image")
        return f"images with two lit pixels, {images}, P = {scale.probes:,} probes, {_counted(seeds, 'seed')}"
    if "scale_detection_layers" in tables:
        seeds = {experiment.seeds for experiment in scale.experiments.values()}
        return f"rings with two lit sites, P = {scale.probes:,} probes, {_counted(seeds, 'seed')}"
    if tables <= {"scale_detection_samples"}:
        return f"{config.data.name}, one of the probes" if "probe" in entry.needs else ""
    sizes = config.data.kept_training_images
    images = f", {_counted({*sizes} if isinstance(sizes, list) else {sizes}, 'training image')}" if sizes else ""
    probes = f", P = {config.probes.images:,} probes" if tables & _MEASURED else ""
    seeds = {len(config.seeds_of(name)) for name in config.architectures}
    return f"{config.data.name}{images}{probes}, {_counted(seeds, 'seed')}"
