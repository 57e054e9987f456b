"""Files fetched over HTTP: whole and with the right digest, or not at all."""

import contextlib
import fcntl
import hashlib
import http.client
import io
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

__all__ = ["DownloadError", "download", "file_digest"]

_BLOCK = 1 << 18
# Answers below 500 that ask for patience.
_LATER = {http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS}
_FEWEST_HEX_DIGITS = 8  # of a digest: torchvision's weight files carry that many in their names


class DownloadError(OSError):
    """A file could not be downloaded; nothing lies under its name unless it lay there before."""


class _RefusedError(Exception):
    """A server gave an answer that it would give again."""


class _CutError(Exception):
    """An answer did not come, or not to its end: asking again may help."""


def file_digest(path: str | Path, algorithm: str) -> str:
    """Digest of a file's content, in hex digits.

    Args:
        path: of the file.
        algorithm: one that :mod:`hashlib` knows: "md5", "sha256".
    """
    with Path(path).open("rb") as file:
        # Digests tell whole files from others here; systems that forbid MD5 for security allow it for that.
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


class _Part:
    """What has come of a file so far, open and locked.

    Attributes:
        path: where it lies.
        kept: bytes at its beginning that the mirror which is being asked did not send.
    """

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self.path = path
        self.kept = 0
        self._file = file

    @property
    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    @property
    def in_place(self) -> bool:
        """Whether the open file still has its name: whoever held the lock before may have renamed or removed it."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def append(self, block: bytes) -> None:
        rest = memoryview(block)
        while rest:
            rest = rest[self._file.write(rest) :]

    def clear(self) -> None:
        self._file.truncate(0)
        self.kept = 0

    def rename(self, path: Path) -> None:
        # The bytes must be on disk before the name is, or a power cut can leave an empty file under it.
        os.fsync(self._file.fileno())
        self.path.replace(path)


@contextlib.contextmanager
def _locked_part(path: Path) -> Iterator[_Part]:
    """The part file at ``path``, made if there is none, held by no other process; removed at the end if it is empty."""
    while True:
        # Without a buffer, so that what has come is in the file when this process is killed.
        with open(path, "ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{path} is being downloaded by another process: waiting for it", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            part = _Part(path, file)
            if not part.in_place:
                continue
            try:
                yield part
            finally:
                if part.size == 0 and part.in_place:
                    path.unlink()
            return


def _opener() -> urllib.request.OpenerDirector:
    """Opener of http and https alone, so that no redirection leads to a file or to another protocol."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    opener.addheaders = []
    return opener


def _send_request(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    """Answer to a request for all bytes from ``start`` on."""
    headers = {"User-Agent": "relstab", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(_describe(error)) from error
    assert isinstance(response, http.client.HTTPResponse)
    return response


def _describe(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or type(error).__name__


def _bounds(response: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """Where an answer starts in the file, and the size of the file: None where the server does not say."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0, response.length
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    start = int(match[1])
    if match[2] != "*":
        return start, int(match[2])
    return start, None if response.length is None else start + response.length


def _ask_once(url: str, part: _Part, title: str, timeout: float) -> None:
    """Ask for what is missing and append it; start over where the server does not go on from where the part ends.

    Raises:
        _RefusedError, _CutError: the file has not come to its end.
    """
    size = part.size
    try:
        response = _send_request(url, size, timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if not size or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            later = error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR or error.code in _LATER
            kind = _CutError if later else _RefusedError
            raise kind(f"HTTP {error.code} {error.reason}") from error
    else:
        with response:
            start, total = _bounds(response)
            whole = response.status != http.HTTPStatus.PARTIAL_CONTENT
            if whole or start == size:
                if whole:
                    part.clear()
                _append_body(response, part, total, title, timeout)
                return
        if not size:
            raise _RefusedError(f"answered with Content-Range {response.headers.get('Content-Range')!r}, which was not asked for")
    part.clear()
    _ask_once(url, part, title, timeout)


def _append_body(response: http.client.HTTPResponse, part: _Part, total: int | None, title: str, timeout: float) -> None:
    """Append what a server sends until it ends, and show how much that is."""
    # A terminal is drawn anew; in a log file every drawing stays.
    interval = 0.5 if sys.stderr.isatty() else 30.0
    with tqdm(
        desc=title,
        total=total,
        initial=part.size,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        mininterval=interval,
        maxinterval=2 * interval,
        file=sys.stderr,
    ) as bar:
        while True:
            try:
                block = response.read1(_BLOCK)
            except TimeoutError as error:
                raise _CutError(f"nothing came for {timeout:g} s after {part.size:,} bytes") from error
            except (OSError, http.client.HTTPException) as error:
                raise _CutError(f"{_describe(error)} after {part.size:,} bytes") from error
            if not block:
                break
            part.append(block)  # outside the try: a full disk is no matter of the network
            bar.update(len(block))
    if total is not None and part.size < total:
        raise _CutError(f"the connection ended after {part.size:,} of {total:,} bytes")


def _ask(url: str, part: _Part, title: str, attempts: int, wait: float, timeout: float) -> None:
    """Ask a mirror until the file has come to its end, or until ``attempts`` in a row have brought no more of it.

    Raises:
        _RefusedError, _CutError: the file has not come to its end.
    """
    # What counts is the farthest point: a server that starts over and is cut at the same point each time brings nothing.
    farthest, failures = part.size, 0
    while True:
        try:
            return _ask_once(url, part, title, timeout)
        except _CutError as error:
            failures = 0 if part.size > farthest else failures + 1
            farthest = max(farthest, part.size)
            if failures >= attempts:
                raise
            pause = wait * 2 ** max(failures - 1, 0)
            print(f"{url}: {error}; asking again in {pause:g} s", file=sys.stderr, flush=True)
        time.sleep(pause)


def _check_present(path: Path, algorithm: str, digest: str) -> bool:
    """Whether there is a file at ``path``; an error if it is another one than is wanted."""
    if not path.exists():
        return False
    found = file_digest(path, algorithm)
    if not found.startswith(digest):
        raise DownloadError(
            f"{path} is there already and is another file than is wanted ({path.stat().st_size:,} bytes with {algorithm} "
            f"{found}, where {digest} is wanted): delete it, or put a whole copy there"
        )
    return True


def download(
    path: str | Path,
    urls: Sequence[str],
    algorithm: str,
    digest: str,
    *,
    attempts: int = 5,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file whole, or leave nothing under its name.

    What has come is kept in a file beside ``path``, with ``.part`` at its end, from which this call, or a later one, goes on
    where the connection is cut or the process killed. Of processes that want the same file at the same time one fetches it and
    the others wait for that. A file that is there already is checked, and not fetched.

    Args:
        path: of the file; its folder is made if need be.
        urls: where the file is, http or https, in the order in which they are tried.
        algorithm: of the digest, one that :mod:`hashlib` knows.
        digest: of the file, in hex digits: all of them, or at least the first 8.
        attempts: how often in a row a server is asked without getting further before the next one is tried.
        wait: seconds before a server is asked again, doubled with each attempt that got no further.
        timeout: seconds after which a server that sends nothing is given up.

    Returns:
        ``path``.

    Raises:
        DownloadError: no server gave the file, the file at ``path`` is another one, or the folder cannot be written to.
        ValueError: an argument cannot be right.
    """
    path, digest = Path(path), digest.lower()
    part_path = path.with_name(f"{path.name}.part")
    if not urls or not all(re.match(r"https?://[^/]", url, re.IGNORECASE) for url in urls):
        raise ValueError(f"{path} is to be fetched from {', '.join(map(repr, urls)) or 'nowhere'}: http or https URLs are wanted")
    digits = 2 * hashlib.new(algorithm, usedforsecurity=False).digest_size
    if not re.fullmatch(f"[0-9a-f]{{{_FEWEST_HEX_DIGITS},{digits}}}", digest):
        raise ValueError(f"{digest!r} is given as {algorithm} of {path}: {_FEWEST_HEX_DIGITS} to {digits} hex digits are wanted")
    if attempts < 1:
        raise ValueError(f"{attempts} attempts are given to fetch {path}: at least 1 is wanted")
    # Before a part is made, for a folder that can only be read.
    if _check_present(path, algorithm, digest):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked_part(part_path) as part:
            if _check_present(path, algorithm, digest):  # by the process that held the lock
                return path
            failed = []
            for url in urls:
                # A second time from scratch where the digest is wrong and bytes from before, or of another mirror, can be why.
                part.kept = part.size
                for _ in range(2):
                    try:
                        # A process may have been killed between the last byte and the name.
                        if not part.size or not file_digest(part_path, algorithm).startswith(digest):
                            _ask(url, part, path.name, attempts, wait, timeout)
                    except (_RefusedError, _CutError) as error:
                        failed.append(f"{url}: {error}")
                        break
                    found = file_digest(part_path, algorithm)
                    if found.startswith(digest):
                        part.rename(path)
                        return path
                    failed.append(f"{url} gave {part.size:,} bytes with {algorithm} {found}, where {digest} is wanted")
                    mixed = part.kept > 0
                    part.clear()
                    if not mixed:
                        break
            rest = f" ({part.size:,} bytes are kept in {part_path}, to go on from)" if part.size else ""
            raise DownloadError(f"{path} could not be downloaded: {'; '.join(dict.fromkeys(failed))}{rest}")
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(f"{path} could not be downloaded: {part_path} cannot be written or locked ({error})") from error
