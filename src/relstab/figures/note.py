"""What a figure is about, in a line below it: the data set, the number P of probes, the seeds."""

from relstab.config import IMAGENET, Config
from relstab.data.datasets import dataset_label
from relstab.figures import FigureEntry

__all__ = ["figure_note"]


_MEASURED = {"sensitivity", "over_training", "sensitivity_sweep"}


def _counted(numbers: set[int], noun: str) -> str:
    """Numbers in words: 2 seeds, 2 to 4 seeds; nothing where the run has none."""
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    return f"{low:,} {noun}{'' if high == 1 else 's'}" if low == high else f"{low:,} to {high:,} {noun}s"


def figure_note(entry: FigureEntry, config: Config) -> str:
    """The line below a figure of a run; "" for figures that show no measurement."""
    tables, scale, data = set(entry.tables.values()), config.scale_detection, dataset_label(dict(config.data))
    if tables <= {"scale_detection_samples"}:
        parts = [data, "one of the probes"] if "probe" in entry.needs else []
    elif any(name.startswith("imagenet") for name in tables):
        parts = [IMAGENET, f"P = {config.imagenet.probes:,} probes" if "imagenet_sensitivity" in tables else ""]
    elif "scale_detection_networks" in tables:
        images, seeds = {scale.images.train_pairs}, {len(scale.images.seeds_of(name)) for name in scale.architectures}
        parts = ["images with two lit pixels", _counted(images, "training image")]
        parts += [f"P = {scale.probes:,} probes", _counted(seeds, "seed")]
    elif "scale_detection_layers" in tables:
        seeds = {experiment.seeds for experiment in scale.experiments.values()}
        parts = ["rings with two lit sites", f"P = {scale.probes:,} probes", _counted(seeds, "seed")]
    else:
        kept, seeds = config.data.kept_training_images, {len(config.seeds_of(name)) for name in config.architectures}
        sizes = {*kept} if isinstance(kept, list) else {kept} if kept else set()
        sizes = sizes if entry.every_size or not sizes else {max(sizes)}
        probes = f"P = {config.probes.images:,} probes" if tables & _MEASURED else ""
        parts = [data, _counted(sizes, "training image"), probes, _counted(seeds, "seed")]
    return ", ".join(filter(None, parts))
