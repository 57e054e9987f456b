"""The command ``relstab``: measure networks, compare them, say what a file of a run is, and what is missing on a machine.

Each command imports what it needs when it runs, so that ``relstab --help`` answers at once.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

import relstab

__all__ = ["main"]

_MODELS = """
\b
MODEL is one of
  torchvision:NAME   such as torchvision:resnet18
  timm:NAME          such as timm:convnext_atto
  PATH.py:FUNCTION   a function without arguments that returns a torch.nn.Module
  FILE.h5            a network of a run, results/networks/.../seed0.h5
"""


class _Commands(click.Group):
    """Errors that a user can mend are one sentence; all others are bugs and keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click ends quietly
            raise
        except (ValueError, OSError, ImportError) as error:
            raise click.ClickException(str(error)) from error


def _measuring(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands that measure."""
    options = [
        click.option("--images", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
                     help="Folder of images; subfolders are searched too."),
        click.option("--pretrained", is_flag=True, help="Take the published weights of torchvision or timm (a download)."),
        click.option("--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help="Take the weights of a file of torch.save(model.state_dict(), ...). Nothing in it is executed."),
        click.option("--state", default="last", show_default=True, help="Of a network of a run: init, best, last or epoch3."),
        click.option("--size", type=click.IntRange(8), help="Side of the images in pixels; they are cropped to the middle. "
                     "[default: what the network was made for, or else 224]"),
        click.option("--number", type=click.IntRange(2), default=100, show_default=True, help="Images, drawn at random."),
        click.option("--layers", type=click.Choice(["paper", "blocks", "all"]), default="paper", show_default=True,
                     help="Activations that follow weights, residual and attention blocks, or every module."),
        click.option("--part", metavar="NAME", help="Of the output, if it has several: a key or an attribute, such as logits. "
                     "[default: all as one]"),
        click.option("--displacement", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
                     help="Typical displacement of the deformations, in pixels."),
        click.option("--cutoff", type=click.IntRange(2), default=3, show_default=True, help="Largest mode of the deformations."),
        click.option("--perturbation", "perturbations", multiple=True, metavar="KIND",
                     help="Measure S of this perturbation in place of D, G and R. May be given several times: deformation, "
                     "noise, translation, rotation, dilation, shear, blur, jpeg. All have the norm of the deformations."),
        click.option("--shuffle", is_flag=True, help="Also measure with shuffled channels: dashed in the picture."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps."),
        click.option("--seed", default=0, show_default=True, help="Of the images, the perturbations and untrained weights."),
        click.option("--output", type=click.Path(path_type=Path),
                     help="Write OUTPUT.csv and OUTPUT.png. [default: the name of the network]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(relstab.__version__, prog_name="relstab")
def main() -> None:
    """Measure how the layers of a network react to deformations and to noise.

    D is the sensitivity of a layer to a small smooth deformation, G that to white noise of the same norm, R = D / G. R below 1
    says that the layer is stabler to deformations than to noise (Tomasini et al., arXiv 2210.01506).
    """


@main.command(epilog=_MODELS)
@click.argument("model")
@_measuring
def measure(model: str, **options: Any) -> None:
    """Measure D, G and R of every layer of MODEL; write a table and a picture.

    Without --pretrained or --weights the network is as it was initialized.
    """
    _measure([model], **options)


@main.command(epilog=_MODELS)
@click.argument("models", metavar="MODEL MODEL...", nargs=-1, required=True)
@_measuring
def compare(models: Sequence[str], **options: Any) -> None:
    """Measure several networks on the same images; write one table and one picture.

    The column "network" of the table tells them apart.
    """
    _measure(models, **options)


def _measure(models: Sequence[str], **options: Any) -> None:
    from relstab.cli.measure import measure_models

    for line in measure_models(models, **options):
        click.echo(line)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def show(file: Path) -> None:
    """Say what an HDF5 FILE of a run is, where it came from, and what it holds."""
    from relstab.files.description import describe_file

    for line in describe_file(file):
        click.echo(line)


@main.command()
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Folder of the run.")
def doctor(results: Path) -> None:
    """Say what is missing on this machine, and the command that mends it.

    It ends with status 1 if the library cannot run here. What the pipeline, pictures or a cluster need besides is optional.
    """
    from relstab.cli.doctor import findings

    failed = False
    for finding in findings(results):
        failed |= finding.state == "missing"
        click.echo(f"{finding.state:>8}  {finding.subject}: {finding.text}")
        if finding.mend:
            click.echo(f"{'':>8}  -> {finding.mend}")
    if failed:
        raise SystemExit(1)
