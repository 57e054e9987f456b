"""Networks that torchvision has trained on ImageNet, as files that the stages for trained networks take, and images for them."""

import collections
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from relstab.architectures.torchvision import torchvision
from relstab.batch_norm import estimate_batch_statistics
from relstab.config import IMAGENET
from relstab.data.download import download
from relstab.data.image_folder import ImageProblem, list_images, read_image
from relstab.devices import choose_device
from relstab.files.hdf5 import open_hdf5, provenance, write_hdf5
from relstab.files.network import State, copy_state
from relstab.nearest import nearest
from relstab.probes import VERSIONS, make_probes
from relstab.seeding import derive_seed, make_generator

__all__ = [
    "MEAN",
    "STD",
    "build_torchvision",
    "hub_weights",
    "read_calibration_images",
    "write_imagenet_images",
    "write_imagenet_probes",
    "write_pretrained",
]

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's training pixels, by channel, on the scale from 0 to 1."""

STD = (0.229, 0.224, 0.225)
"""Standard deviation of these pixels."""

# Images that the statistics of batch norm at initialization are estimated on, and how many of them at a time: 50 images of
# 224 x 224 are 640 MB in the first layers of a VGG.
_CALIBRATION_IMAGES = 250
_CALIBRATION_BATCH = 50
# What these constructors are told. Both networks convert images that are normalised as ImageNet's to the scale they were trained
# on, and have further outputs for training alone, which are left out.
_WITH_HEADS: dict[str, Any] = {"aux_logits": False, "transform_input": True, "init_weights": True}
_CONSTRUCTORS: dict[str, dict[str, Any]] = {"googlenet": _WITH_HEADS, "inception_v3": _WITH_HEADS}
_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
# The sha256 that torchvision's file names begin: resnet18-f37072fd.pth.
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


def _check_name(name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(
            f"{name!r} is given (config.yaml: imagenet.networks), and torchvision {torchvision.__version__} has no such network: "
            f"one of torchvision.models.list_models(module=torchvision.models) is wanted{nearest(name, known, 3)}"
        )


def build_torchvision(name: str, arguments: Mapping[str, Any] | None = None, seed: int = 0) -> nn.Module:
    """Network of torchvision as its constructor initialises it, in evaluation mode; its output is one tensor.

    Args:
        name: as in torchvision's registry, "resnet18".
        arguments: of the constructor, besides those that every network gets.
        seed: of its random numbers; torch's global generators stay as they are.
    """
    _check_name(name)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs, too.
        torch.default_generator.manual_seed(seed)
        model: nn.Module = torchvision.models.get_model(name, weights=None, **_CONSTRUCTORS.get(name, {}), **(arguments or {}))
    return model.eval()


def hub_weights(name: str) -> Path:
    """File of torchvision's default weights in the folder of torch's hub, downloaded if it is not there.

    Raises:
        ValueError: the file is there and is not what its name says.
        OSError: it is not there and could not be downloaded.
    """
    _check_name(name)
    url = str(torchvision.models.get_model_weights(name).DEFAULT.url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    match = _DIGEST.search(path.name)
    if match is None:
        raise ValueError(
            f"torchvision's weights of {name} ({url}) have no digest in their name to check them by: a local file of weights is "
            f"wanted (config.yaml: imagenet.weights.{name})"
        )
    if path.exists():
        found = pooch.file_hash(str(path), "sha256")
        if not found.startswith(match[1]):
            raise ValueError(
                f"{path} is not the file that torchvision published: its sha256 begins {found[: len(match[1])]}, and {match[1]} "
                f"is wanted; delete it, or name another file of weights (config.yaml: imagenet.weights.{name})"
            )
        return path
    try:
        download(path, [url], "sha256", match[1])
    except OSError as error:
        raise OSError(
            f"torchvision's weights of {name} are not in {path} and could not be downloaded ({error}): put the file {url} there, "
            f"or name a local file of weights (config.yaml: imagenet.weights.{name})"
        ) from error
    return path


def _read_weights(path: Path, name: str) -> collections.OrderedDict[str, Tensor]:
    """State dict out of a file, without what wrappers of the network put around it; nothing in the file is executed."""
    where = f"config.yaml: imagenet.weights.{name}"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist ({where}): a file of weights of {name} is wanted")
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged or hostile file can make the reader raise anything
        raise ValueError(
            f"{path} cannot be read as weights ({where}; {type(error).__name__}): a whole file that "
            f"torch.save(model.state_dict(), ...) wrote is wanted"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        kind = type(found).__name__
        what = f"a {kind} of other things than tensors" if isinstance(found, Mapping) and found else f"a {kind}"
        what = f"an empty {kind}" if isinstance(found, Mapping) and not found else what
        raise ValueError(f"{path} holds {what} ({where}): a state dict, tensors by the names of parameters, is wanted")
    prefix = "module." if all(str(key).startswith("module.") for key in found) else ""
    weights = collections.OrderedDict((str(key).removeprefix(prefix), value) for key, value in found.items())
    if name.startswith("densenet"):
        # As torchvision's published files call these layers: denselayer1.norm.1 for denselayer1.norm1.
        old = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.(\d)\.")
        weights = collections.OrderedDict((old.sub(r"\1\2.", key), value) for key, value in weights.items())
    heads = _HEADS.get(name, ())
    return collections.OrderedDict((key, value) for key, value in weights.items() if not key.startswith(heads))


def _size_arguments(name: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the constructor must know of the weights: a vision transformer has a parameter for each patch of its images."""
    patch, places = weights.get("conv_proj.weight"), weights.get("encoder.pos_embedding")
    if not name.startswith("vit_") or patch is None or places is None or patch.ndim != 4 or places.ndim != 3:
        return {}
    return {"image_size": math.isqrt(max(places.shape[1] - 1, 1)) * patch.shape[-1]}


def _fitted(model: nn.Module, weights: Mapping[str, Tensor], path: Path, name: str) -> State:
    """Weights as the network wants them, or one sentence on the first that does not fit."""
    where = f"{path} does not fit {name} of torchvision (config.yaml: imagenet.weights.{name})"
    # The dict of the network itself, which knows the versions of its layers: some do not load without.
    fitted: State = model.state_dict()
    for key, value in fitted.items():
        if key not in weights:
            # Counted by batch norm, used by none, and not in files from before torch 0.4.1.
            if key.endswith("num_batches_tracked"):
                continue
            begins = next(iter(weights), None)
            raise ValueError(f"{where}: it has no {key!r}, {list(value.shape)}, which the network has; its first is {begins!r}")
        if weights[key].shape != value.shape:
            raise ValueError(f"{where}: {key!r} has shape {list(weights[key].shape)}, and {list(value.shape)} is wanted")
        if not torch.isfinite(weights[key]).all():
            raise ValueError(f"{where}: {key!r} has values that are NaN or infinite, and finite ones are wanted")
        fitted[key] = weights[key]
    unknown = next((key for key in weights if key not in fitted), None)
    if unknown is not None:
        raise ValueError(f"{where}: it has {unknown!r}, which the network does not have")
    return fitted


def _check_images(model: nn.Module, images: Tensor, name: str) -> None:
    """One forward pass, so that a network that wants another size says so before it is measured."""
    size = images.shape[-1]
    try:
        with torch.no_grad():
            output = model(images[:2])
    except (RuntimeError, AssertionError, ValueError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{name} does not take images of {size} x {size} pixels (config.yaml: imagenet.crop): a size that it takes, 224 for "
            f"most, is wanted; torchvision says: {cause}"
        ) from error
    if not isinstance(output, Tensor):
        raise TypeError(f"{name} gives {type(output).__name__}: a network whose output is one tensor is wanted")


def write_pretrained(
    path: str | Path,
    name: str,
    weights: str | Path | None = None,
    calibration_images: Tensor | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Write a network of torchvision to HDF5 as :func:`relstab.save_network` writes one that was trained here.

    Its states are "init", as torchvision's constructor initialises it, and "last", with the pretrained weights ("best" is the
    same). :func:`relstab.load_network` builds it through torchvision.

    Args:
        path: of the HDF5 file.
        name: in torchvision's registry, ``torchvision.models.list_models(module=torchvision.models)``.
        weights: local file of a state dict, also under a key "state_dict" or "model", also of a network inside a DataParallel;
            None for torchvision's default weights, see :func:`hub_weights`.
        calibration_images: [N, 3, n, n], normalised, on which the running statistics of batch norm at initialization are
            estimated; None leaves them at mean 0 and variance 1, which are no statistics of any image.
        seed: of the whole run.
        device: where the images go through the network.
    """
    _check_name(name)
    source = hub_weights(name) if weights is None else Path(weights)
    given = _read_weights(source, name)
    arguments = _size_arguments(name, given)
    model = build_torchvision(name, arguments, derive_seed("initialization", seed, IMAGENET, name, 0, 0))
    pretrained = _fitted(model, given, source, name)
    place = choose_device(device)
    if calibration_images is not None:
        model, images = model.to(place), calibration_images.to(place)
        _check_images(model, images, name)
        estimate_batch_statistics(model, images, _CALIBRATION_BATCH)
        model = model.cpu()
    states = {"init": copy_state(model)}
    model.load_state_dict(pretrained)
    states["last"] = copy_state(model)
    count = 0 if calibration_images is None else len(calibration_images)
    parameters = {
        "weights": source.name,
        "weights_sha256": pooch.file_hash(str(source), "sha256"),
        "config_seed": seed,
        "calibration_images": count,
    }
    attributes = {
        **provenance(parameters, device=str(place)),
        "dataset": IMAGENET,
        "architecture": name,
        "noise": 0.0,
        "seed": 0,
        "snapshots": [],
        "builder": "torchvision",
        "builder_arguments": json.dumps(arguments),
        "torchvision_version": torchvision.__version__,
        "parameters_in_order": list(states["last"]),
    }
    with write_hdf5(path, attributes) as file:
        for state, tensors in states.items():
            for key, tensor in tensors.items():
                file[f"{state}/{key}"] = tensor.numpy()
        # A second name of the same arrays, no second copy.
        file["best"] = file["last"]


def _normalise(images: NDArray[np.uint8]) -> Tensor:
    """Pixels [N, 3, n, n] as the networks were trained on them, in float32."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return torch.from_numpy(images).float().div_(255).sub_(mean).div_(std)


def _take(
    names: collections.deque[str], number: int, folder: Path, resize: int, crop: int, last: bool
) -> dict[str, NDArray[np.uint8]]:
    """Up to ``number`` images off one end of the queue, by name; what cannot be used is skipped with a line that says why."""
    taken: dict[str, NDArray[np.uint8]] = {}
    while names and len(taken) < number:
        name = names.pop() if last else names.popleft()
        try:
            taken[name] = read_image(folder / name, channels=3, size=crop, fit="crop", resize_to=resize)
        except ImageProblem as problem:
            print(f"skipped: {name} {problem}")
    return taken


def write_imagenet_images(path: str | Path, folder: str | Path, number: int, resize: int, crop: int, seed: int = 0) -> None:
    """Choose images of a folder at random, decode them and write them to HDF5.

    Which ones follows from the seed and the names of the files under the folder, whatever their order on the disk; an image more
    in the folder changes at most one of each.

    Args:
        path: of the HDF5 file: "probes" [P, 3, crop, crop], images to perturb, and "calibration" [N, 3, crop, crop], up to 250
            other ones for the statistics of batch norm, both uint8; "probes_files" and "calibration_files", their names under the
            folder. Where there are fewer others than 250 and than P, the images to perturb serve for both.
        folder: with images in folders by class or not.
        number: P, how many images to perturb.
        resize: pixels of the shorter side, to which an image is resized first.
        crop: pixels of the square cut from its centre.
        seed: of the whole run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder (config.yaml: imagenet.images): a folder of images is wanted")
    names = [file.relative_to(folder).as_posix() for file in list_images(folder)]
    # Each has its place by a hash of its own name, not by a permutation of them all.
    queue = collections.deque(sorted(names, key=lambda name: (derive_seed("images", IMAGENET, seed, name), name)))
    probes = _take(queue, number, folder, resize, crop, last=False)
    if len(probes) < number:
        raise ValueError(
            f"{number} images are wanted (config.yaml: imagenet.probes), and {folder} has {len(probes)} that can be used, of "
            f"{len(names)} files"
        )
    # From the other end, so that they stay the same where more are to be perturbed.
    calibration = _take(queue, _CALIBRATION_IMAGES, folder, resize, crop, last=True)
    if len(calibration) < min(_CALIBRATION_IMAGES, number):
        calibration = dict(list(probes.items())[:_CALIBRATION_IMAGES])
    parameters = {"folder": str(folder), "images": number, "resize": resize, "crop": crop}
    with write_hdf5(path, {"name": IMAGENET, **provenance(parameters, seed)}) as file:
        for part, images in (("probes", probes), ("calibration", calibration)):
            file[part] = np.stack(list(images.values()))
            # A name is bytes on the disk, and need not be text.
            file[f"{part}_files"] = [os.fsencode(name).decode(errors="replace") for name in images]


def read_calibration_images(path: str | Path) -> Tensor:
    """Images for the statistics of batch norm out of a file of :func:`write_imagenet_images`, [N, 3, n, n], normalised."""
    with open_hdf5(path) as file:
        return _normalise(file["calibration"][:])


def write_imagenet_probes(
    path: str | Path, images: str | Path, displacement: float, cutoff: int, interpolation: str, seed: int = 0
) -> None:
    """Perturb images and write the three versions to HDF5, as :func:`relstab.probes.write_probes` does.

    Args:
        path: of the HDF5 file.
        images: file of :func:`write_imagenet_images`.
        displacement, cutoff, interpolation: of the diffeomorphism, see :func:`relstab.deform`.
        seed: of the whole run.
    """
    with open_hdf5(images) as file:
        clean = _normalise(file["probes"][:])
    probes = make_probes(clean, displacement, cutoff, interpolation, make_generator("probes", IMAGENET, seed))
    parameters = {"images": len(clean), "displacement": displacement, "cutoff": cutoff, "interpolation": interpolation}
    with write_hdf5(path, {"name": IMAGENET, **provenance(parameters, seed)}) as file:
        for version in VERSIONS:
            file[version] = getattr(probes, version).numpy()
