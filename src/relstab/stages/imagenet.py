"""The stages of networks that torchvision or timm has trained on ImageNet: their weights, images to measure them on, probes."""

import collections
import re
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from numpy.typing import NDArray
from torch import Tensor

from relstab.architectures import TIMM
from relstab.architectures.imagenet_networks import MEAN, STD, build_imagenet_network, check_image_size
from relstab.architectures.timm_networks import build_timm
from relstab.architectures.torchvision import torchvision
from relstab.architectures.torchvision_networks import check_name, fit_weights, read_weights, size_arguments
from relstab.batch_norm import estimate_batch_statistics
from relstab.data.download import download
from relstab.data.image_folder import ImageProblem, list_images, read_image
from relstab.files.imagenet import read_pixels, write_pixels
from relstab.files.network import IMAGENET, NetworkKey, copy_state, save_pretrained
from relstab.files.probes import write_probes
from relstab.probes import make_probes
from relstab.runs.devices import choose_device
from relstab.runs.seeding import derive_seed, make_generator

__all__ = [
    "hub_weights",
    "read_calibration_images",
    "write_imagenet_images",
    "write_imagenet_probes",
    "write_pretrained",
]

# Images that the statistics of batch norm at initialization are estimated on, and how many per batch: 50 images of 224 x 224 are
# 640 MB in the first layers of a VGG.
_CALIBRATION_IMAGES = 250
_CALIBRATION_BATCH = 50
# The beginning of the sha256 in the names of torchvision's files: resnet18-f37072fd.pth.
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


def hub_weights(name: str) -> Path:
    """File of torchvision's default weights in the folder of torch's hub, downloaded if it is missing.

    Raises:
        ValueError: the content of the file does not match the digest in its name.
        OSError: the file is missing and could not be downloaded.
    """
    check_name(name)
    url = str(torchvision.models.get_model_weights(name).DEFAULT.url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    local = f"name a local file of weights (config.yaml: imagenet.weights.{name})"
    match = _DIGEST.search(path.name)
    if match is None:
        raise ValueError(f"expected a digest in the name of torchvision's weights of {name}, got {url}: {local}")
    if path.exists():
        digest = pooch.file_hash(str(path), "sha256")[: len(match[1])]
        if digest != match[1]:
            raise ValueError(
                f"expected a sha256 of {path} that begins with {match[1]}, as torchvision published it, got {digest}: delete the "
                f"file, or {local}"
            )
        return path
    try:
        download(path, [url], "sha256", match[1])
    except OSError as error:
        raise OSError(
            f"torchvision's weights of {name} are not at {path} and could not be downloaded ({error}): put the file {url} there, "
            f"or {local}"
        ) from error
    return path


def _pretrained_weights(name: str, weights: str | Path | None) -> tuple[Path, dict[str, Tensor]]:
    """File and state dict of a network; where timm reads the file, its name in the registry stands for it."""
    if weights is None and name.startswith(TIMM):
        try:
            model = build_timm(name.removeprefix(TIMM), pretrained=True)
        except OSError as error:
            raise OSError(f"{error}; or name a local file (config.yaml: imagenet.weights.{name})") from error
        config: Any = model.pretrained_cfg
        return Path(f"{config['architecture']}.{config['tag']}"), copy_state(model)
    if not name.startswith(TIMM):
        check_name(name)
    source = hub_weights(name) if weights is None else Path(weights)
    return source, read_weights(source, name)


def write_pretrained(
    path: str | Path,
    name: str,
    weights: str | Path | None = None,
    calibration_images: Tensor | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Write a network of torchvision or timm to HDF5 in the format of :func:`relstab.save_network`.

    Its states are "init", as the library's constructor initialises it, and "last", with the pretrained weights ("best" is the
    same). :func:`relstab.load_network` builds it through the library.

    Args:
        path: of the HDF5 file.
        name: see :func:`relstab.architectures.imagenet_networks.build_imagenet_network`.
        weights: local file, see :func:`relstab.architectures.torchvision_networks.read_weights`; None for torchvision's default
            weights, see :func:`hub_weights`, or for those that timm publishes.
        calibration_images: [N, 3, n, n], normalised, on which the running statistics of batch norm at initialization are
            estimated; None leaves them at mean 0 and variance 1, which are no statistics of any image.
        seed: of the whole run.
        device: on which the images go through the network.
    """
    source, loaded = _pretrained_weights(name, weights)
    arguments = size_arguments(name, loaded)
    key = NetworkKey(IMAGENET, name, 0.0, 0)
    model = build_imagenet_network(name, arguments, derive_seed("initialization", seed, *key.identity))
    pretrained = fit_weights(model, loaded, source, name)
    chosen = choose_device(device)
    if calibration_images is not None:
        model, images = model.to(chosen), calibration_images.to(chosen)
        check_image_size(model, images, name)
        estimate_batch_statistics(model, images, _CALIBRATION_BATCH)
        model = model.cpu()
    states = {"init": copy_state(model)}
    model.load_state_dict(pretrained)
    states["last"] = copy_state(model)
    parameters = {
        "weights": source.name,
        **({"weights_sha256": pooch.file_hash(str(source), "sha256")} if source.is_file() else {}),
        "config_seed": seed,
        "calibration_images": 0 if calibration_images is None else len(calibration_images),
    }
    save_pretrained(path, key, states, arguments, parameters, str(chosen))


def _normalise(pixels: NDArray[np.uint8]) -> Tensor:
    """Images [N, 3, n, n] on the scale that the networks were trained on, in float32."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return torch.from_numpy(pixels).float().div_(255).sub_(mean).div_(std)


def _take(
    names: collections.deque[str], number: int, folder: Path, resize: int, crop: int, last: bool
) -> dict[str, NDArray[np.uint8]]:
    """Up to ``number`` images from one end of the queue, by name; unusable files are skipped with a line that says why."""
    images: dict[str, NDArray[np.uint8]] = {}
    while names and len(images) < number:
        name = names.pop() if last else names.popleft()
        try:
            images[name] = read_image(folder / name, channels=3, size=crop, fit="crop", resize_to=resize)
        except ImageProblem as problem:
            print(f"skipped: {name} {problem}")
    return images


def write_imagenet_images(path: str | Path, folder: str | Path, number: int, resize: int, crop: int, seed: int = 0) -> None:
    """Choose images of a folder at random, decode them and write them to HDF5.

    The choice follows from the seed and the names of the files under the folder, whatever their order on the disk; one more image
    in the folder changes at most one image of each part.

    Args:
        path: of the HDF5 file, see :func:`relstab.files.imagenet.write_pixels`. Its parts are "probes", P images to perturb, and
            "calibration", up to 250 other images for the statistics of batch norm. Where fewer than 250 and fewer than P others
            remain, the images to perturb serve for both.
        folder: of images, with or without subfolders.
        number: P, the number of probes.
        resize: pixels of the shorter side, to which an image is resized first.
        crop: pixels of the square that is cut from its centre.
        seed: of the whole run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected a folder of images, but {folder} is no folder (config.yaml: imagenet.images)")
    names = [file.relative_to(folder).as_posix() for file in list_images(folder)]
    # The position of an image is a hash of its name and not part of a permutation of all names, so that it outlives other files.
    queue = collections.deque(sorted(names, key=lambda name: (derive_seed("images", IMAGENET, seed, name), name)))
    probes = _take(queue, number, folder, resize, crop, last=False)
    if len(probes) < number:
        raise ValueError(
            f"expected {number} usable images in {folder} (config.yaml: imagenet.probes), got {len(probes)} of {len(names)} files"
        )
    # From the other end, so that they stay the same when the number of probes grows.
    calibration = _take(queue, _CALIBRATION_IMAGES, folder, resize, crop, last=True)
    if len(calibration) < min(_CALIBRATION_IMAGES, number):
        calibration = dict(list(probes.items())[:_CALIBRATION_IMAGES])
    parameters = {"folder": str(folder), "images": number, "resize": resize, "crop": crop}
    write_pixels(path, {"probes": probes, "calibration": calibration}, IMAGENET, parameters, seed)


def read_calibration_images(path: str | Path) -> Tensor:
    """Normalised images [N, 3, n, n] for the statistics of batch norm, from a file of :func:`write_imagenet_images`."""
    return _normalise(read_pixels(path, "calibration"))


def write_imagenet_probes(
    path: str | Path, images: str | Path, displacement: float, cutoff: int, interpolation: str, seed: int = 0
) -> None:
    """Perturb images and write the three versions to HDF5, as :func:`relstab.stages.probes.perturb_test_images` does.

    Args:
        path: of the HDF5 file.
        images: file of :func:`write_imagenet_images`.
        displacement, cutoff, interpolation: of the diffeomorphism, see :func:`relstab.deform`.
        seed: of the whole run.
    """
    clean = _normalise(read_pixels(images, "probes"))
    probes = make_probes(clean, displacement, cutoff, interpolation, make_generator("probes", IMAGENET, seed))
    parameters = {"images": len(clean), "displacement": displacement, "cutoff": cutoff, "interpolation": interpolation}
    write_probes(path, probes, IMAGENET, parameters, seed)
