"""The figures of a run: one table, from which the workflow, the report and the tests take them.

Each module of this room draws one figure, or one kind of figure, from tables. To add a figure, add its module and its line in
:data:`FIGURES`.
"""

import ast
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "FigureEntry"]


@dataclass(frozen=True)
class FigureEntry:
    """One figure.

    Attributes:
        draw_name: "module.function" in this room; the function takes the tables and ``arguments``, and returns a figure.
        tables: name of each table (without ``.csv``) by the argument that takes it.
        when: what a run must have for this figure: a key of ``CONDITIONS`` in ``workflow/rules/figures.smk``; "": nothing.
        arguments: further arguments that are the same in every run.
        needs: arguments that the run gives: "images" (a probe, and a test image per noise level), "probe" (the probe alone),
            "deformation" (displacement, cutoff, interpolation), "interval" (confidence, resamples, seed), "confidence".
        every_size: whether it shows networks of all sizes of the training set, where that is an axis, or of the largest alone.
        title: heading in the report; "": the words of its file name.
    """

    draw_name: str
    tables: Mapping[str, str] = field(default_factory=dict)
    when: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    every_size: bool = False
    title: str = ""

    @property
    def draw(self) -> Callable[..., "Figure"]:
        """The function that draws it; to import it imports matplotlib."""
        module, function = self.draw_name.split(".")
        drawer: Callable[..., Figure] = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        return drawer

    @property
    def caption(self) -> str:
        """First paragraph of the docstring of the function that draws it, read without importing matplotlib."""
        module, function = self.draw_name.split(".")
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
        node = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
        return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())

    @property
    def shows_architectures(self) -> bool:
        """Whether it shows the labels, colours and marks of the user's architectures."""
        return "networks" in self.tables


_MEASURED = {"networks": "networks", "sensitivity": "sensitivity"}
_CORRELATED = {**_MEASURED, "correlation": "correlation"}
_SPECTRA = {"networks": "networks", "spectrum": "spectrum"}
_PAIRS = {"networks": "scale_detection_networks", "sensitivity": "scale_detection_sensitivity"}
_LAYERS = {"layers": "scale_detection_layers"}

FIGURES: dict[str, FigureEntry] = {
    "fig01_relative_sensitivity": FigureEntry("relative_sensitivity.draw", _CORRELATED, needs=("images",), every_size=True),
    "fig02_pooling": FigureEntry("pooling.draw"),
    "fig03_shuffled_layers": FigureEntry("shuffled_layers.draw", _MEASURED),
    "fig04_filter_spectra": FigureEntry("filter_spectra.draw", _SPECTRA),
    "fig05_scale_detection_samples": FigureEntry(
        "scale_detection_samples.draw",
        {"samples": "scale_detection_samples"},
        "scale detection",
        title="Samples of the scale-detection tasks",
    ),
    "fig06_scale_detection_errors": FigureEntry(
        "scale_detection_errors.draw",
        {**_PAIRS, "correlation": "scale_detection_correlation"},
        "pairs",
        title="Error of deep networks on scale detection against D, G and R",
    ),
    "fig07_pooling_scaling": FigureEntry(
        "pooling_scaling.draw", {**_LAYERS, "exponents": "scale_detection"}, "rings", title="D_k and G_k of simple CNNs"
    ),
    "fig08_deep_scale_detection": FigureEntry(
        "deep_scale_detection.draw", _PAIRS, "pairs", title="Error of deep networks on scale detection, and initialization"
    ),
    "fig09_deep_scale_detection_layers": FigureEntry(
        "deep_scale_detection_layers.draw", _PAIRS, "pairs", title="D, G and R of deep networks on scale detection, by layer"
    ),
    "fig10_error_scatter": FigureEntry(
        "error_scatter.draw", _CORRELATED, every_size=True, title="Error against D, G and R at each noise level"
    ),
    "fig11_layer_sensitivities": FigureEntry("layer_sensitivities.draw", _MEASURED, title="D and G by layer"),
    "fig12_filter_spectra_vgg": FigureEntry(
        "filter_spectra.draw_all",
        _SPECTRA,
        "beyond figure 4, without skips",
        arguments={"skips": False},
        title="Filter spectra of networks without skip connections",
    ),
    "fig13_filter_spectra_resnet": FigureEntry(
        "filter_spectra.draw_all",
        _SPECTRA,
        "beyond figure 4, with skips",
        arguments={"skips": True},
        title="Filter spectra of networks with skip connections",
    ),
    "fig14_filter_spectra_imagenet": FigureEntry(
        "filter_spectra.draw_pretrained",
        {"spectrum": "imagenet_spectrum"},
        "imagenet",
        title="Filter spectra of ImageNet networks",
    ),
    "imagenet_shuffled_layers": FigureEntry(
        "shuffled_layers.draw_pretrained",
        {"sensitivity": "imagenet_sensitivity"},
        "imagenet images",
        title="Shuffled layers of ImageNet networks",
    ),
    "initialization": FigureEntry("initialization.draw", _MEASURED, title="D, G and R, trained and at initialization"),
    "deformations": FigureEntry("deformations.draw", needs=("probe", "deformation")),
    "learning_curves": FigureEntry("learning_curves.draw", {"history": "history", "networks": "networks"}),
    "over_training": FigureEntry(
        "over_training.draw",
        {"networks": "networks", "over_training": "over_training"},
        "snapshots",
        title="D, G and R during training",
    ),
    "displacements": FigureEntry(
        "displacements.draw",
        {"sweep": "sensitivity_sweep"},
        "sweep",
        needs=("confidence",),
        title="D, G and R against the displacement",
    ),
    "training_sizes": FigureEntry(
        "training_sizes.draw",
        _MEASURED,
        "training sizes",
        needs=("confidence",),
        every_size=True,
        title="Error and R against the number of training images",
    ),
    "relu_tanh": FigureEntry("relu_tanh.draw", _LAYERS, "rings", needs=("interval",), title="ReLU and tanh"),
}
"""The figures by file name, those of the paper first."""
