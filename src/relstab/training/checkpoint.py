"""Checkpoints of a training run: atomic files, the last two of which are kept; only the same run continues from them."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from relstab.files.hdf5 import open_hdf5, read_attributes, write_hdf5

__all__ = ["Checkpoint", "Checkpoints", "digest"]

_KEPT = 2


def digest(*tensors: Tensor) -> str:
    """SHA-256 of the content of tensors, by which a training run recognises its images."""
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """State of a training run at one moment.

    Attributes:
        tensors: by name; slashes in a name make groups.
        values: everything else, in the types of JSON.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def _described(key: str, there: Any, here: Any) -> str:
    if "images" in key:  # two digests would say no more
        return f"other {key}"
    return f"{key} is {there}, and here {here}"


class Checkpoints:
    """The checkpoints of one training run, in a separate folder, so that they are found again after a return to its recipe.

    Args:
        parent: where the folder is; it is made with the first checkpoint.
        identity: all that the training run depends on, in the types of JSON; checkpoints of another identity are refused.
    """

    def __init__(self, parent: str | Path, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True)
        self._identity: dict[str, Any] = json.loads(text)
        self.folder = Path(parent) / hashlib.sha256(text.encode()).hexdigest()[:12]

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write the checkpoint of one step, and drop those before the last two.

        Raises:
            OSError: it cannot be written, for instance for lack of space; the older checkpoints stay as they were.
        """
        path = self.folder / f"step{step:010d}.h5"
        # A job whose run has ended saves one, too: it belongs to the training run, whichever job continues that.
        with write_hdf5(path, {"identity": json.dumps(self._identity)}, "checkpoint", only_in_run=False) as file:
            file["values"] = json.dumps(checkpoint.values)  # not an attribute, which takes 64 KB at most
            for name, tensor in checkpoint.tensors.items():
                file[f"tensors/{name}"] = tensor.detach().cpu().numpy()
        for old in sorted(self.folder.glob("step*.h5"))[:-_KEPT]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> Checkpoint | None:
        """The last complete checkpoint of this training run; None where there is none.

        Files that cannot be read are renamed to end in ``.broken``, those of another training run to end in ``.refused``. Both
        are reported, and so is the difference to other training runs whose checkpoints are here.
        """
        self._name_others()
        for path in sorted(self.folder.glob("step*.h5"), reverse=True):
            try:
                identity, checkpoint = _read(path)
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                self._set_aside(path, "broken", f"cannot be read ({error})")
                continue
            if difference := self._difference(identity):
                self._set_aside(path, "refused", f"is of another training ({difference})")
                continue
            return checkpoint
        return None

    def _difference(self, identity: Mapping[str, Any]) -> str:
        here, there = _flat(self._identity), _flat(identity)
        other = [key for key in {**here, **there} if here.get(key) != there.get(key)]
        return ", ".join(_described(key, there.get(key), here.get(key)) for key in other)

    def _name_others(self) -> None:
        for folder in sorted(self.folder.parent.glob("*/")):
            for path in sorted(folder.glob("step*.h5"))[-1:]:
                with contextlib.suppress(OSError, KeyError, ValueError):
                    if difference := self._difference(json.loads(read_attributes(path, "checkpoint")["identity"])):
                        print(f"the checkpoints in {folder} are of another training ({difference}): kept, not used", flush=True)

    def _set_aside(self, path: Path, suffix: str, why: str) -> None:
        aside = path.with_suffix(f".{suffix}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.replace(aside)
        print(f"the checkpoint {path} {why}: not used, and set aside as {aside.name}", flush=True)


def _read(path: Path) -> tuple[dict[str, Any], Checkpoint]:
    """Identity and content of a checkpoint."""
    tensors: dict[str, Tensor] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            tensors[name] = torch.as_tensor(item[()])

    with open_hdf5(path, "checkpoint") as file:
        file["tensors"].visititems(keep)
        return json.loads(file.attrs["identity"]), Checkpoint(tensors, json.loads(file["values"][()]))
