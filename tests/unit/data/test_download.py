import hashlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from relstab.data import download as module
from relstab.data.download import DownloadError, download, file_digest

from helpers import Server, closed_url

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


def part_of(path):
    return path.with_name(f"{path.name}.part")


def fetch(path, *urls, digest=SHA256, **arguments):
    return download(path, urls, "sha256", digest, **{"wait": 0.01, "attempts": 3, **arguments})


def assert_whole(path):
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_comes_whole_and_only_once(server, path, capsys):
    assert fetch(path, f"{server.url}/file.bin") == path
    assert_whole(path)
    assert "file.bin: 100%" in capsys.readouterr().err
    fetch(path, f"{server.url}/file.bin")
    assert server.requests == [("/file.bin", None)]


def test_the_first_digits_of_a_digest_are_enough(server, path):
    fetch(path, f"{server.url}/file.bin", digest=SHA256[:8].upper())
    assert_whole(path)
    path.unlink()
    with pytest.raises(DownloadError, match=r"gave 300,000 bytes with sha256 \w{64}, where 00000000 is wanted"):
        fetch(path, f"{server.url}/file.bin", digest="00000000")


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_digest_of_a_file(tmp_path, algorithm):
    (tmp_path / "file").write_bytes(CONTENT)
    assert file_digest(tmp_path / "file", algorithm) == hashlib.new(algorithm, CONTENT).hexdigest()


def test_a_cut_connection_is_taken_up_where_it_ended(server, path):
    server.plan += [{"cut": 1000}, {"cut": 70_000}]
    fetch(path, f"{server.url}/file.bin")
    assert_whole(path)
    assert server.ranges == [None, "bytes=1000-", "bytes=71000-"]


def test_attempts_that_get_further_do_not_count(server, path):
    server.plan += [{"cut": 1000}] * 5
    fetch(path, f"{server.url}/file.bin", attempts=1)
    assert_whole(path)
    assert len(server.requests) == 6


def test_attempts_that_get_no_further_count(server, path):
    """Also where each brings bytes: here those that were there before."""
    server.plan += [{"cut": 1000, "ignore_range": True}] * 9
    with pytest.raises(DownloadError, match=r"ended after 1,000 of 300,000 bytes \(1,000 bytes are kept in .*file.bin.part"):
        fetch(path, f"{server.url}/file.bin", attempts=3)
    assert len(server.requests) == 4
    assert not path.exists()
    assert part_of(path).read_bytes() == CONTENT[:1000]
    server.plan.clear()
    fetch(path, f"{server.url}/file.bin")
    assert_whole(path)


def test_waits_double_until_something_comes(server, path, monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    server.plan += [{"status": 503}, {"status": 502}, {"status": 500}, {"cut": 1000}, {"status": 503}]
    fetch(path, f"{server.url}/file.bin", wait=0.5, attempts=4)
    assert waits == [0.5, 1, 2, 0.5, 0.5]


def test_a_server_that_falls_silent_is_asked_again(server, path):
    server.plan += [{"hold": 1000}]
    fetch(path, f"{server.url}/file.bin", timeout=0.2)
    assert_whole(path)
    assert server.ranges == [None, "bytes=1000-"]


SCRIPT = """
import sys
from relstab.data.download import download
download(sys.argv[1], [sys.argv[2]], "sha256", sys.argv[3], wait=0.01)
"""


def start_download(path, url):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), url, SHA256], stderr=subprocess.PIPE, text=True)


def wait_until(fact):
    for _ in range(3000):
        if fact():
            return
        time.sleep(0.01)
    raise AssertionError("it has not come to pass in half a minute")


def test_a_killed_process_is_taken_up_where_it_ended(server, path):
    server.plan += [{"hold": 123_456}]
    with start_download(path, f"{server.url}/file.bin") as process:
        wait_until(lambda: part_of(path).exists() and part_of(path).stat().st_size == 123_456)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [file.name for file in path.parent.iterdir()] == ["file.bin.part"]
    fetch(path, f"{server.url}/file.bin")
    assert_whole(path)
    assert server.ranges == [None, "bytes=123456-"]


def test_of_two_processes_one_fetches_and_one_waits(server, path):
    server.plan += [{"hold": 1000}]
    with start_download(path, f"{server.url}/file.bin") as first:
        wait_until(server.came.is_set)
        with start_download(path, f"{server.url}/file.bin") as second:
            assert "file.bin.part is being downloaded by another process" in second.stderr.readline()
            server.release.set()
            assert second.wait() == 0
        assert first.wait() == 0
    assert_whole(path)
    assert len(server.requests) == 1


def test_the_one_that_waited_takes_up_what_the_other_left(server, path):
    server.plan += [{"hold": 1000}]
    with start_download(path, f"{server.url}/file.bin") as first:
        wait_until(lambda: part_of(path).exists() and part_of(path).stat().st_size == 1000)
        with start_download(path, f"{server.url}/file.bin") as second:
            second.stderr.readline()
            first.kill()
            assert second.wait() == 0
    assert_whole(path)
    assert server.ranges == [None, "bytes=1000-"]


def test_the_one_that_waited_fetches_what_the_other_could_not(server, path):
    """What it has opened and waited for is removed meanwhile."""
    server.plan += [{"hold": 1000, "body": b"wrong" * 1000}]
    with start_download(path, f"{server.url}/file.bin") as first:
        wait_until(server.came.is_set)
        with start_download(path, f"{server.url}/file.bin") as second:
            second.stderr.readline()
            server.release.set()
            assert second.wait() == 0
        assert first.wait() == 1
    assert_whole(path)
    assert server.ranges == [None, None]


@pytest.fixture
def left_part(path):
    """Leave some bytes beside ``path``, as a killed process does: the first of the file, unless others are given."""

    def leave(content=CONTENT[:5000]):
        path.parent.mkdir()
        part_of(path).write_bytes(content)

    return leave


@pytest.mark.parametrize(
    "answer",
    [
        {"ignore_range": True},
        {"status": 416},
        {"content_range": f"bytes 4000-{len(CONTENT) - 1}/{len(CONTENT)}"},
        {"content_range": "characters 5000-6000/7000"},
    ],
    ids=["ignores Range", "416", "another start", "not bytes"],
)
def test_a_server_that_does_not_go_on_from_there_makes_it_start_over(server, path, left_part, answer):
    left_part()
    server.plan += [answer]
    fetch(path, f"{server.url}/file.bin", attempts=1)
    assert_whole(path)
    assert server.ranges == ["bytes=5000-"] + ([] if "ignore_range" in answer else [None])


def test_an_answer_that_starts_elsewhere_is_refused(server, path):
    server.plan += [{"content_range": f"bytes 4000-{len(CONTENT) - 1}/{len(CONTENT)}"}]
    with pytest.raises(DownloadError, match=r"Content-Range 'bytes 4000-299999/300000', which was not asked for$"):
        fetch(path, f"{server.url}/file.bin")
    assert list(path.parent.iterdir()) == []


def test_a_part_that_is_longer_than_the_file_is_fetched_anew(server, path, left_part):
    left_part(CONTENT + b"more")
    fetch(path, f"{server.url}/file.bin")
    assert_whole(path)
    assert server.ranges == ["bytes=300004-", None]


def test_a_part_of_another_file_is_fetched_anew_once(server, path, left_part):
    left_part(b"stale" * 1000)
    fetch(path, f"{server.url}/file.bin")
    assert_whole(path)
    assert server.ranges == ["bytes=5000-", None]


def test_a_wrong_file_is_not_fetched_for_ever(server, path, left_part):
    left_part(b"stale" * 1000)
    server.files["/file.bin"] = b"wrong" * 2000
    with pytest.raises(DownloadError, match=r"gave 10,000 bytes"):
        fetch(path, f"{server.url}/file.bin")
    assert server.ranges == ["bytes=5000-", None]
    assert list(path.parent.iterdir()) == []


def test_a_wrong_file_that_came_whole_is_not_fetched_again(server, path, left_part):
    left_part(b"stale" * 1000)
    server.plan += [{"ignore_range": True, "body": b"wrong" * 2000}]
    with pytest.raises(DownloadError, match=r"gave 10,000 bytes"):
        fetch(path, f"{server.url}/file.bin")
    assert server.ranges == ["bytes=5000-"]
    assert list(path.parent.iterdir()) == []


def test_a_wrong_file_leaves_nothing_and_is_named(server, path):
    server.files["/file.bin"] = b"wrong"
    got = hashlib.sha256(b"wrong").hexdigest()
    expected = f"{path} could not be downloaded: {server.url}/file.bin gave 5 bytes with sha256 {got}, where {SHA256} is wanted"
    with pytest.raises(DownloadError) as caught:
        fetch(path, f"{server.url}/file.bin")
    assert str(caught.value) == expected
    assert len(server.requests) == 1
    assert list(path.parent.iterdir()) == []


def test_a_body_of_unknown_length_that_is_cut_is_not_taken(server, path):
    server.plan += [{"cut": 1000, "length": False}]
    with pytest.raises(DownloadError, match="gave 1,000 bytes"):
        fetch(path, f"{server.url}/file.bin")
    assert list(path.parent.iterdir()) == []
    fetch(path, f"{server.url}/file.bin")
    assert_whole(path)


def test_an_overloaded_server_is_asked_again(server, path):
    server.plan += [{"status": 503}, {"status": 429}]
    fetch(path, f"{server.url}/file.bin")
    assert_whole(path)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_file_that_is_not_there_is_sought_at_the_next_server(server, path, status):
    server.plan += [{"status": status}]
    fetch(path, f"{server.url}/other.bin", f"{server.url}/file.bin")
    assert_whole(path)
    assert [asked for asked, _ in server.requests] == ["/other.bin", "/file.bin"]


def test_the_next_server_goes_on_or_replaces_what_is_wrong(server, path):
    server.files["/wrong.bin"] = b"wrong" * 100
    server.plan += [{}, {"cut": 1000}, {"status": 404}]
    fetch(path, f"{server.url}/wrong.bin", closed_url(), f"{server.url}/file.bin", f"{server.url}/file.bin", attempts=2)
    assert_whole(path)
    assert server.requests == [("/wrong.bin", None), ("/file.bin", None), *[("/file.bin", "bytes=1000-")] * 2]


def test_all_servers_that_failed_are_named(server, path):
    nobody = closed_url()
    with pytest.raises(DownloadError) as caught:
        fetch(path, f"{server.url}/other.bin", f"{nobody}/file.bin")
    message = str(caught.value)
    assert message.startswith(f"{path} could not be downloaded: {server.url}/other.bin: HTTP 404 Not Found; {nobody}/file.bin: ")
    assert "refused" in message
    assert len(server.requests) == 1
    assert list(path.parent.iterdir()) == []


def test_without_a_network_what_came_before_is_kept(path, left_part):
    left_part()
    with pytest.raises(DownloadError, match=r"refused.*5,000 bytes are kept in .*file.bin.part, to go on from"):
        fetch(path, f"{closed_url()}/file.bin")
    assert part_of(path).read_bytes() == CONTENT[:5000]


def test_another_file_under_the_name_is_left_alone(server, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    got = hashlib.sha256(b"mine").hexdigest()
    with pytest.raises(DownloadError, match=rf"file.bin is there already .*4 bytes with sha256 {got}.*put a whole copy there"):
        fetch(path, f"{server.url}/file.bin")
    assert path.read_bytes() == b"mine"
    assert server.requests == []


def test_a_redirection_is_followed_with_the_range(server, path, left_part):
    left_part()
    server.plan += [{"status": 302, "location": "/file.bin"}]
    fetch(path, f"{server.url}/moved.bin")
    assert_whole(path)
    assert server.requests == [("/moved.bin", "bytes=5000-"), ("/file.bin", "bytes=5000-")]


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1:1/file.bin"])
def test_a_redirection_to_what_is_no_web_server_is_refused(server, path, location):
    server.plan += [{"status": 302, "location": location}] * 9
    with pytest.raises(DownloadError, match=r"HTTP 302|unknown url type"):
        fetch(path, f"{server.url}/file.bin")
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_is_no_matter_of_the_network(server, path, monkeypatch):
    def write(_part, _block):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module._Part, "append", write)
    with pytest.raises(DownloadError, match=r"file.bin.part cannot be written .*No space left"):
        fetch(path, f"{server.url}/file.bin")
    assert len(server.requests) == 1


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"file/folder/file.bin could not be downloaded.*Not a directory"):
        fetch(tmp_path / "file" / "folder" / "file.bin", f"{server.url}/file.bin")


@pytest.mark.parametrize(
    ("url", "arguments", "message"),
    [
        ("file:///etc/hostname", {}, "'file:///etc/hostname': http or https URLs are wanted"),
        ("ftp://host/file", {}, "http or https URLs are wanted"),
        ("http:///file", {}, "http or https URLs are wanted"),
        ("http://127.0.0.1:1/file", {"digest": ""}, "'' is given as sha256 .* 8 to 64 hex digits are wanted"),
        ("http://127.0.0.1:1/file", {"digest": "0123abc"}, "8 to 64 hex digits are wanted"),
        ("http://127.0.0.1:1/file", {"digest": "0" * 65}, "8 to 64 hex digits are wanted"),
        ("http://127.0.0.1:1/file", {"digest": "no digits"}, "8 to 64 hex digits are wanted"),
        ("http://127.0.0.1:1/file", {"attempts": 0}, "0 attempts are given .* at least 1 is wanted"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(path, url, arguments, message):
    with pytest.raises(ValueError, match=message):
        fetch(path, url, **arguments)
    assert not path.parent.exists()


def test_no_url_is_refused(path):
    with pytest.raises(ValueError, match="is to be fetched from nowhere: http or https URLs are wanted"):
        fetch(path)


def test_a_part_that_is_whole_already_needs_no_server(tmp_path):
    """Left by a process that was killed between the last byte and the name."""
    (tmp_path / "file.part").write_bytes(CONTENT)
    download(tmp_path / "file", [f"{closed_url()}/file"], "sha256", hashlib.sha256(CONTENT).hexdigest(), attempts=1, wait=0.01)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert not (tmp_path / "file.part").exists()
