"""Time of preparing a folder of images, compared with decoding alone in as many processes.

- decoding: open every file, decode it to RGB, convert it to an array and discard it;
- preparing: `relstab.stages.datasets.prepare_dataset`: list the folder, check, shuffle and decode the images, compute their
  statistics, and write the HDF5 file.

The two alternate in one process after a warm-up turn, which starts the processes and caches the files. Times are medians; the
ratio is the median over the turns. Without a folder, the benchmark makes 60,000 JPEG images of 32 x 32 pixels.

    python benchmarks/image_folder.py [FOLDER] [--workers 2] [--turns 5]
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

from relstab.data.image_folder import list_folder
from relstab.stages.datasets import prepare_dataset

CHUNK = 341


def make_folder(root: Path) -> None:
    """50,000 training and 10,000 test images in ten classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 5000), ("test", 1000)):
        for label in range(10):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                small.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number:04d}.jpg", quality=75)


def decode(root: str, files: Sequence[str]) -> int:
    total = 0
    for file in files:
        with Image.open(f"{root}/{file}") as image:
            total += np.asarray(image.convert("RGB")).size
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or f"{temporary}/images"
        if not options.folder:
            make_folder(Path(root))
        listing = list_folder(root)
        files = [file for part in listing.files.values() for file in part]
        chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
        imagefolder = {"channels": 3, "size": 32, "fit": "exact", "resize_to": None, "problems": "stop"}
        times: dict[str, list[float]] = {"decoding": [], "preparing": []}
        for turn in range(options.turns + 1):
            for name, seconds in times.items():
                start = time.perf_counter()
                if name == "decoding":
                    Parallel(options.workers)(delayed(decode)(root, chunk) for chunk in chunks)
                else:
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        prepare_dataset(
                            f"{temporary}/{turn}.h5", "imagefolder", root, imagefolder=imagefolder, workers=options.workers
                        )
                if turn:
                    seconds.append(time.perf_counter() - start)
    ratio = statistics.median(after / alone for alone, after in zip(times["decoding"], times["preparing"], strict=True))
    print(f"{len(files):,} images, {options.workers} processes, medians of {options.turns} turns")
    for name, seconds in times.items():
        print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
