"""Downloads over HTTP: a file of the right digest, or none."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pooch
from filelock import FileLock
from tqdm import tqdm

from relstab.files.hdf5 import atomic_path

__all__ = ["DownloadError", "check_digest", "download"]


class DownloadError(OSError):
    """A file could not be downloaded; there is none under its name unless there was one before."""


def check_digest(path: Path, algorithm: str, digest: str) -> None:
    """Raise ValueError unless the hex digits of a file's digest begin with ``digest``."""
    actual = pooch.file_hash(str(path), alg=algorithm)
    if not actual.startswith(digest.lower()):
        raise ValueError(
            f"{path}: expected {algorithm} {digest}, got {actual} ({path.stat().st_size:,} bytes): delete the file, or "
            f"replace it with a whole copy"
        )


def download(
    path: str | Path,
    urls: Sequence[str],
    algorithm: str,
    digest: str,
    *,
    attempts: int = 3,
    wait: float = 2.0,
    timeout: float = 30.0,
) -> Path:
    """Download a file, unless it exists; of several processes one downloads it and the others wait.

    Args:
        path: of the file; its folder is made if it does not exist.
        urls: where the file is, http or https, in the order in which they are tried.
        algorithm: of the digest: "md5", "sha256", ...
        digest: of the file, in hex digits: all of them, or the first few.
        attempts: how often the list of URLs is tried.
        wait: seconds between two attempts.
        timeout: seconds after which a silent server is given up.

    Returns:
        ``path``.

    Raises:
        ValueError: the file exists and has another digest.
        DownloadError: no server sent the file, or the folder cannot be written to.
    """
    path = Path(path)
    # Before the lock, since a folder that holds the file may be read-only.
    if path.exists():
        check_digest(path, algorithm, digest)
        return path
    failures: dict[str, str] = {}
    wrong: set[str] = set()  # URLs that sent another file; they are not tried again
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists():  # downloaded by the process that held the lock
                check_digest(path, algorithm, digest)
                return path
            with atomic_path(path) as temporary:
                for attempt in range(attempts):
                    time.sleep(wait if attempt else 0)
                    for url in [url for url in urls if url not in wrong]:
                        try:
                            _fetch(url, temporary, path.name, timeout)
                        except OSError as error:  # errors of requests and of the disk alike
                            failures[url] = str(error)
                            continue
                        actual = pooch.file_hash(str(temporary), alg=algorithm)
                        if actual.startswith(digest.lower()):
                            return path
                        wrong.add(url)
                        size = temporary.stat().st_size
                        failures[url] = f"expected {algorithm} {digest}, got {actual} ({size:,} bytes)"
                raise DownloadError("; ".join(f"{url}: {failure}" for url, failure in failures.items()))
    except OSError as error:
        raise DownloadError(f"{path} could not be downloaded ({error})") from error


def _fetch(url: str, target: Path, title: str, timeout: float) -> None:
    # A terminal is redrawn; in a log file every update stays.
    interval = 0.5 if sys.stderr.isatty() else 30.0
    # Pooch replaces the total by the server's. But first it tests the truth of the bar, which needs a total.
    with tqdm(
        desc=title, total=1, unit="B", unit_scale=True, unit_divisor=1024, mininterval=interval, maxinterval=2 * interval
    ) as bar:
        headers = {"Accept-Encoding": "identity"}  # otherwise requests may decompress a .gz file
        # Requests follows redirections to HTTP and HTTPS only.
        pooch.HTTPDownloader(bar, chunk_size=1 << 18, timeout=timeout, headers=headers)(url, str(target), None)
