"""Classification networks of torchvision, built by name, and weights read from a file and fitted to a network."""

import hashlib
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relstab.architectures.torchvision import torchvision
from relstab.runs.nearest import nearest

__all__ = ["build_torchvision", "check_name", "fit_weights", "read_weights", "size_arguments"]

# Both networks convert images that are normalised with ImageNet's statistics to the scale they were trained on, and have further
# outputs for training alone, which are left out.
_WITH_HEADS: dict[str, Any] = {"aux_logits": False, "transform_input": True, "init_weights": True}
_CONSTRUCTORS: dict[str, dict[str, Any]] = {"googlenet": _WITH_HEADS, "inception_v3": _WITH_HEADS}
_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
# Layers of torchvision's published DenseNet files: denselayer1.norm.1 for denselayer1.norm1.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.(\d)\.")


def check_name(name: str) -> None:
    """Raise ValueError unless torchvision has a classification network of this name."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(
            f"expected a name in torchvision.models.list_models(module=torchvision.models) of torchvision "
            f"{torchvision.__version__}, got {name!r} (config.yaml: imagenet.networks){nearest(name, known, 3)}"
        )


def build_torchvision(name: str, arguments: Mapping[str, Any] | None = None, seed: int = 0) -> nn.Module:
    """Network of torchvision as its constructor initialises it, in evaluation mode; its output is one tensor.

    Args:
        name: in torchvision's registry, such as "resnet18".
        arguments: of the constructor, besides those that every network gets.
        seed: of the initialization; torch's global generators keep their states.
    """
    check_name(name)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed the GPUs.
        torch.default_generator.manual_seed(seed)
        model: nn.Module = torchvision.models.get_model(name, weights=None, **_CONSTRUCTORS.get(name, {}), **(arguments or {}))
    return model.eval()


def _contents(content: Any) -> str:
    """Description of what a file holds in place of a state dict."""
    kind = type(content).__name__
    if not isinstance(content, Mapping):
        return f"a {kind}"
    return f"a {kind} of values that are not tensors" if content else f"an empty {kind}"


def _check_sums(path: Path) -> None:
    """Check the checksums in a file of torch.save, which torch.load ignores, and the digest in the name of a published file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            if damaged := parts.testzip():
                raise ValueError(f"wrong sum of {damaged}")
    published = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)
    if published:
        with path.open("rb") as file:
            if not hashlib.file_digest(file, "sha256").hexdigest().startswith(published[1]):
                raise ValueError("wrong digest in its name")


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    _check_sums(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """State dict of a file, without the prefixes that wrappers of the network add; nothing in the file is executed.

    Args:
        path: file of a state dict, also under a key "state_dict" or "model", also of a network inside a DataParallel.
        name: of the network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read or holds no state dict.
    """
    where = f"{path} (config.yaml: imagenet.weights.{name})"
    if not path.is_file():
        raise FileNotFoundError(f"expected a file of weights of {name}, but {where} does not exist")
    try:
        content = _content(path)
    except Exception as error:  # a damaged or hostile file can make the reader raise anything
        raise ValueError(
            f"expected a complete file of torch.save(model.state_dict(), ...) or of safetensors, but {where} cannot be read as "
            f"weights ({type(error).__name__}{f': {error}' if str(error).startswith('wrong') else ''})"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"expected a state dict, tensors by the names of parameters, got {_contents(content)} in {where}")
    prefix = "module." if all(str(key).startswith("module.") for key in content) else ""
    weights = {str(key).removeprefix(prefix): value for key, value in content.items()}
    if name.startswith("densenet"):
        weights = {_OLD_DENSENET.sub(r"\1\2.", key): value for key, value in weights.items()}
    return {key: value for key, value in weights.items() if not key.startswith(_HEADS.get(name, ()))}


def size_arguments(name: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the constructor that follow from the weights: a vision transformer has parameters per patch of its images."""
    patch, positions = weights.get("conv_proj.weight"), weights.get("encoder.pos_embedding")
    if not name.startswith("vit_") or patch is None or positions is None or patch.ndim != 4 or positions.ndim != 3:
        return {}
    return {"image_size": math.isqrt(max(positions.shape[1] - 1, 1)) * patch.shape[-1]}


def fit_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path, name: str) -> dict[str, Tensor]:
    """State dict of a network with the values of ``weights``.

    Args:
        model: any network.
        weights: from :func:`read_weights`.
        path, name: the file and the network, for messages.

    Raises:
        ValueError: an entry is missing, unknown, of another shape or not finite; the message names the first.
    """
    where = f"{path} does not fit {name} (config.yaml: imagenet.weights.{name})"
    # The state dict of the network itself holds the versions of its layers; some do not load without them.
    fitted: dict[str, Tensor] = model.state_dict()
    for key, value in fitted.items():
        if key not in weights:
            # A counter of batch norm that has no effect; files from before torch 0.4.1 lack it.
            if key.endswith("num_batches_tracked"):
                continue
            first = next(iter(weights), None)
            raise ValueError(f"{where}: expected {key!r}, {list(value.shape)}, which is missing; the file begins with {first!r}")
        if weights[key].shape != value.shape:
            raise ValueError(f"{where}: expected shape {list(value.shape)} of {key!r}, got {list(weights[key].shape)}")
        if not torch.isfinite(weights[key]).all():
            raise ValueError(f"{where}: expected finite values of {key!r}, got NaN or infinite ones")
        fitted[key] = weights[key]
    unknown = next((key for key in weights if key not in fitted), None)
    if unknown is not None:
        raise ValueError(f"{where}: got {unknown!r}, which the network does not have")
    return fitted
