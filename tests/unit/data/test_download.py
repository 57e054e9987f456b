import hashlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from relstab.data.download import DownloadError, download

from helpers import Server, closed_url, wait_for

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with Server() as running:
        running.files["/file.bin"] = CONTENT
        yield running


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "file.bin"


def fetch(path, *urls, digest=SHA256, **arguments):
    return download(path, urls, "sha256", digest, **{"wait": 0.01, **arguments})


def files_of(path):
    return [file.name for file in path.parent.iterdir() if file.suffix != ".lock"]


def assert_whole(path):
    assert path.read_bytes() == CONTENT
    assert files_of(path) == [path.name]


def test_a_file_is_downloaded_once(server, path, capsys):
    assert fetch(path, f"{server.url}/file.bin") == path
    assert_whole(path)
    assert "file.bin: 100%" in capsys.readouterr().err
    fetch(path, f"{server.url}/file.bin")
    assert len(server.requests) == 1


@pytest.mark.parametrize(("algorithm", "digits"), [("md5", 32), ("sha1", 40), ("sha256", 8)])
def test_any_digest_or_its_first_digits_are_enough(server, path, algorithm, digits):
    digest = hashlib.new(algorithm, CONTENT).hexdigest()[:digits].upper()
    download(path, [f"{server.url}/file.bin"], algorithm, digest)
    assert_whole(path)


@pytest.mark.parametrize(
    "answers",
    [
        [{"cut": 1000}],
        [{"hold": 1000}],
        [{"status": 503}, {"status": 429}],
        [{"status": 302, "location": "/file.bin"}],
    ],
    ids=["connection cut", "silent server", "overloaded server", "redirection"],
)
def test_a_failure_that_passes_does_not_matter(server, path, answers):
    server.plan += answers
    fetch(path, f"{server.url}/file.bin", timeout=0.2)
    assert_whole(path)
    assert len(server.requests) == len(answers) + 1


def test_the_next_server_replaces_one_without_the_file_or_with_another(server, path):
    server.files["/wrong.bin"] = b"wrong" * 100
    fetch(path, f"{server.url}/missing.bin", closed_url(), f"{server.url}/wrong.bin", f"{server.url}/file.bin")
    assert_whole(path)
    assert server.requests == ["/missing.bin", "/wrong.bin", "/file.bin"]


@pytest.mark.parametrize(
    ("answer", "message", "requests"),
    [
        ({"body": b"wrong"}, rf"expected sha256 {SHA256}, got {hashlib.sha256(b'wrong').hexdigest()} \(5 bytes\)", 1),
        ({"cut": 1000, "length": False}, r"got \w{64} \(1,000 bytes\)", 1),
        ({"cut": 1000}, "1000 bytes read, 299000 more expected", 3),
        ({"status": 403}, "403 Client Error", 3),
        ({"status": 302, "location": "file:///etc/hostname"}, "No connection adapters were found for 'file:", 3),
        ({"status": 302, "location": "ftp://127.0.0.1:1/file.bin"}, "No connection adapters were found for 'ftp:", 3),
    ],
    ids=["wrong file", "cut without a length", "cut", "refused", "redirection to a file", "redirection to FTP"],
)
def test_a_failed_download_leaves_no_file_and_one_sentence(server, path, answer, message, requests):
    server.plan += [answer] * 9
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(path, f"{server.url}/file.bin")
    assert str(caught.value).startswith(f"{path} could not be downloaded ({server.url}/file.bin: ")
    assert "\n" not in str(caught.value)
    assert files_of(path) == []
    assert len(server.requests) == requests


def test_all_servers_that_failed_are_named(server, path):
    nobody = closed_url()
    with pytest.raises(DownloadError, match=rf"{server.url}/other.bin: 404 .*; {nobody}/file.bin: .*refused"):
        fetch(path, f"{server.url}/other.bin", f"{nobody}/file.bin", attempts=1)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1:1/file", "http:///file"])
def test_only_http_urls_are_opened(path, url):
    with pytest.raises(DownloadError, match=r"No connection adapters|[Nn]o host"):
        fetch(path, url, attempts=1)


def test_another_file_under_the_name_is_left_alone(server, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    digest = hashlib.sha256(b"mine").hexdigest()
    with pytest.raises(ValueError, match=rf"^{path}: expected sha256 {SHA256}, got {digest} \(4 bytes\): delete"):
        fetch(path, f"{server.url}/file.bin")
    assert path.read_bytes() == b"mine"
    assert server.requests == []


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"file/folder/file.bin could not be downloaded.*Not a directory"):
        fetch(tmp_path / "file" / "folder" / "file.bin", f"{server.url}/file.bin")
    assert server.requests == []


SCRIPT = """
import sys
from relstab.data.download import download
print("ready", flush=True)
download(sys.argv[1], [sys.argv[2]], "sha256", sys.argv[3])
"""


def start_download(path, url):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), url, SHA256], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def test_of_two_processes_one_downloads_and_one_waits(server, path):
    server.plan += [{"hold": 1000}]
    with start_download(path, f"{server.url}/file.bin") as first:
        assert server.came.wait(30)
        with start_download(path, f"{server.url}/file.bin") as second:
            time.sleep(0.2)
            server.release.set()
            assert (first.wait(), second.wait()) == (0, 0)
    assert_whole(path)
    assert len(server.requests) == 1


def test_a_killed_download_leaves_no_file_and_does_not_block_the_next(server, path):
    server.plan += [{"hold": 1000}]
    with start_download(path, f"{server.url}/file.bin") as process:
        wait_for(lambda: server.came.is_set() and files_of(path))
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    fetch(path, f"{server.url}/file.bin")
    assert_whole(path)
