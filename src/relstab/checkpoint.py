"""Checkpoints of a training: whole files, of which the last two are kept, that only the same training continues from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from relstab.storage import whole_file

__all__ = ["Checkpoint", "Checkpoints"]

_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a training is at one moment.

    Attributes:
        tensors: by name; slashes in a name make groups.
        values: all else, as JSON has it.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: made with the first checkpoint.
        identity: all that the training depends on, as JSON has it; checkpoints of another one are refused.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write the checkpoint of one step, and drop those before the last two.

        Raises:
            OSError: it cannot be written, for want of space for instance; the ones before are as they were.
        """
        path = self.folder / f"step{step:010d}.h5"
        # In memory first: a disk that fills up then fails in a plain write, and not somewhere inside HDF5.
        with h5py.File("checkpoint", "w", driver="core", backing_store=False) as file:
            file.attrs["identity"] = json.dumps(self._identity)
            file["values"] = json.dumps(checkpoint.values)  # not an attribute, which takes 64 KB at most
            for name, tensor in checkpoint.tensors.items():
                # Sums over the content are checked on reading.
                summed = {"fletcher32": True} if tensor.numel() and tensor.ndim else {}
                file.create_dataset(f"tensors/{name}", data=tensor.detach().cpu().numpy(), **summed)
            file.flush()
            image = file.id.get_file_image()
        with whole_file(path) as temporary:
            temporary.write_bytes(image)
        for old in sorted(self.folder.glob("step*.h5"))[:-_KEPT]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> Checkpoint | None:
        """The last checkpoint that is whole and of this training; None where there is none.

        Files that cannot be read are renamed to end in ``.broken``, those of another training in ``.refused``; both is said.
        """
        for path in sorted(self.folder.glob("step*.h5"), reverse=True):
            try:
                with h5py.File(path) as file:
                    identity, values = json.loads(file.attrs["identity"]), json.loads(file["values"][()])
                    tensors: dict[str, Tensor] = {}

                    def keep(name: str, item: Any, tensors: dict[str, Tensor] = tensors) -> None:
                        if isinstance(item, h5py.Dataset):
                            tensors[name] = torch.as_tensor(item[()])

                    file["tensors"].visititems(keep)
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                self._set_aside(path, "broken", f"cannot be read ({error})")
                continue
            here, there = _flat(self._identity), _flat(identity)
            other = [key for key in {**here, **there} if here.get(key) != there.get(key)]
            if other:
                differences = ", ".join(f"{key} is {there.get(key)}, and here {here.get(key)}" for key in other)
                self._set_aside(path, "refused", f"is of another training ({differences})")
                continue
            return Checkpoint(tensors, values)
        return None

    def _set_aside(self, path: Path, suffix: str, why: str) -> None:
        aside = path.replace(path.with_suffix(f".{suffix}"))
        print(f"the checkpoint {path} {why}: not used, and set aside as {aside.name}", flush=True)
