import contextlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from relstab.runs import devices, gpu_support
from relstab.runs.devices import acquire_gpu, choose_device, choose_precision, largest_batch, occupied_device, repeatable


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device is 'cuda:63', and this machine has \d+ CUDA devices"):
        choose_device("cuda:63")
    with pytest.raises(ValueError, match=r"expected device to be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'gpu'"):
        choose_device("gpu")


def test_precision_follows_the_hardware_and_the_config(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert choose_precision("float32", cpu) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16
    for amx, avx in ((True, True), (True, False), (False, True), (False, False)):
        capabilities = {"amx_bf16": amx, "avx512_bf16": avx}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities, raising=False)
        assert choose_precision("auto", cpu) == (torch.bfloat16 if amx or avx else torch.float32)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in older versions of torch
    assert choose_precision("auto", cpu) == torch.float32
    for capability, dtype in (((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert choose_precision("auto", cuda) == dtype
    with pytest.raises(ValueError, match=r"expected precision to be .* got 'half'"):
        choose_precision("half", cpu)


FLAGS: dict[str, Callable[[], None]] = {
    "as torch sets them": lambda: None,
    "everything ieee": lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    "everything tf32": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "GPUs tf32": lambda: setattr(torch.backends.cudnn, "fp32_precision", "tf32"),
    "convolutions ieee": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "products tf32": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "older, products medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older, products True": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "older, convolutions False": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "fastest convolutions": lambda: setattr(torch.backends.cudnn, "benchmark", True),
}


def flags():
    """All that torch lets one read; "refused" where the older and the newer flags disagree."""
    backends = torch.backends
    cudnn, mkldnn, matmul = backends.cudnn, backends.mkldnn, backends.cuda.matmul
    owners = [cudnn.conv, cudnn.rnn, matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul, backends, cudnn, mkldnn]
    found = [owner.fp32_precision for owner in owners] + [cudnn.deterministic, cudnn.benchmark]
    for older in (lambda: cudnn.allow_tf32, lambda: matmul.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(older())
        except RuntimeError:
            found.append("refused")
    return found


def flags_before_inside_and_after(state, uses, sender):
    """Of a process of its own, since some states cannot be left again."""
    FLAGS[state]()
    seen = [flags()]
    if uses:
        with repeatable(torch.device("cuda")):
            seen.append(flags())
    seen.append(flags())
    torch.backends.fp32_precision = "ieee"  # and what follows it
    sender.send([*seen, flags()])


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has the older flags alone")
@pytest.mark.parametrize("state", FLAGS)
def test_float32_is_exact_inside_and_all_flags_are_as_before_after(state):
    context = multiprocessing.get_context("fork")
    seen = {}
    for uses in (True, False):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=flags_before_inside_and_after, args=(state, uses, sender))
        process.start()
        assert receiver.poll(30)
        seen[uses] = receiver.recv()
        process.join()
    before, inside, after, later = seen[True]
    assert inside[:9] == ["ieee"] * 9
    assert inside[9:11] == [True, False]
    assert after == before
    assert [before, later] == [seen[False][0], seen[False][-1]]


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_older_versions_of_torch_get_their_flags_back(monkeypatch, precision):
    """As torch before 2.9, which has no newer flags."""
    if hasattr(torch.backends, "fp32_precision"):
        newer = torch.backends

        class Older:
            cudnn, mkldnn, cuda = newer.cudnn, newer.mkldnn, newer.cuda

        monkeypatch.setattr(torch, "backends", Older)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    assert before[1]
    try:
        torch.set_float32_matmul_precision(precision)
        with repeatable(torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])


def hold(folder, names, slots, taken):
    with acquire_gpu(folder, names, slots) as index:
        taken.send(index)
        time.sleep(600)


@pytest.mark.slow
def test_processes_spread_over_devices_before_they_share_one_and_then_wait(tmp_path):
    """Three devices with two places each: the first three processes have one each, six two each, the seventh waits for an end."""
    context = multiprocessing.get_context("fork")
    processes, pipes = [], []

    def start():
        receiver, sender = context.Pipe(duplex=False)
        processes.append(context.Process(target=hold, args=(tmp_path, ["a", "b", "c"], 2, sender)))
        processes[-1].start()
        pipes.append(receiver)

    def taken(number):
        assert pipes[number].poll(30)
        return pipes[number].recv()

    try:
        got = []
        for number in range(6):
            start()
            got.append(taken(number))
        assert sorted(got[:3]) == [0, 1, 2]
        assert sorted(got[3:]) == [0, 1, 2]
        start()
        assert not pipes[6].poll(1.5)
        processes[4].kill()  # not even a clean end
        assert taken(6) == got[4]
    finally:
        for process in processes:
            process.kill()
            process.join()
    # Nothing is held any more.
    with acquire_gpu(tmp_path, ["a"], 1):
        pass


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """A machine with two H100, and no say of SLURM or of the user on them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"GPU-{index}"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_INTERVAL", 0.01)
    for name in ("CUDA_VISIBLE_DEVICES", *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_jobs_take_different_gpus_and_a_named_one_is_taken_as_it_is(monkeypatch):
    with occupied_device("auto") as first, occupied_device("cuda") as second:
        assert {first, second} == {torch.device("cuda", 0), torch.device("cuda", 1)}
        with occupied_device("cuda:1", jobs_per_gpu=2) as named:
            assert named == torch.device("cuda", 1)
            # The only place that is left is on the other one.
            with occupied_device("auto", jobs_per_gpu=2) as third:
                assert third == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_support, "_driver", lambda: None)
    with occupied_device("auto") as place:
        assert place == torch.device("cpu")


def is_free(name="auto"):
    """Whether another process of this environment would get the GPU at once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(devices.time, "sleep", lambda _: (_ for _ in ()).throw(BlockingIOError))
        with contextlib.suppress(BlockingIOError), occupied_device(name):
            return True
    return False


@pytest.mark.usefixtures("two_gpus")
def test_parts_of_a_card_are_locked_by_themselves(monkeypatch):
    """As old and new drivers name them; CUDA gives a job one part, and may give it the card's own UUID."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for one, other in (("MIG-1a2b", "MIG-3c4d"), ("MIG-GPU-1a2b/1/0", "MIG-GPU-1a2b/2/0")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", one)
        with occupied_device("auto"):
            assert not is_free()
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", other)
            assert is_free()


@pytest.mark.usefixtures("two_gpus")
def test_allocations_of_slurm_that_share_a_card_do_not_wait_for_each_other(monkeypatch):
    """As with gres: shard. Jobs in one allocation share its GPUs among themselves."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with occupied_device("auto"):
        monkeypatch.setenv("SLURM_JOB_ID", "18")
        assert not is_free()  # SLURM knows nothing of this card
    monkeypatch.setenv("SLURM_SHARDS_ON_NODE", "1")
    with occupied_device("auto"):
        assert not is_free()
        monkeypatch.setenv("SLURM_JOB_ID", "19")
        assert is_free()


@pytest.mark.parametrize(
    ("capability", "codes", "mend"),
    [
        ((8, 6), ["sm_80", "sm_90"], None),  # of the same generation
        ((12, 1), ["sm_80", "compute_120"], None),  # compiled when it is first used
        ((9, 0), ["sm_80", "sm_90a"], None),
        ((10, 3), ["sm_90", "sm_100f"], None),
        ((7, 0), ["sm_75", "sm_80", "compute_120"], "whl/cu126"),
        ((7, 4), ["sm_75"], "whl/cu126"),
        ((9, 0), ["sm_80"], "--upgrade"),
        ((10, 3), ["sm_90", "sm_100a"], "--upgrade"),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_a_card_without_code_in_torch_is_an_error(monkeypatch, capability, codes, mend):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: codes)
    if mend is None:
        assert choose_device("cuda") == torch.device("cuda")
        return
    for name in ("auto", "cuda", "cuda:1"):
        with pytest.raises(ValueError, match=r"card . has compute capability") as refused, occupied_device(name):
            pass
        assert ".".join(map(str, capability)) in str(refused.value)
        assert mend in str(refused.value)
        assert str(refused.value).endswith("or compute on the CPU (config.yaml: device: cpu)")


@pytest.mark.usefixtures("two_gpus")
def test_a_job_takes_none_of_the_cards_without_code(monkeypatch):
    for usable in (0, 1):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda index, usable=usable: (9, 0) if index == usable else (3, 5)
        )
        for name in ["auto", "cuda"] * 3:
            with occupied_device(name, jobs_per_gpu=2) as device:
                assert device == torch.device("cuda", usable)
            assert (choose_device(name).index or 0) == usable


OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (root@host)  Thu\nGCC version: 12\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"


@pytest.mark.parametrize(
    ("cuda", "driver", "environment", "expected"),
    [
        ("13.0", "535.183.01", {"CUDA_VISIBLE_DEVICES": "0"}, "whose driver is too old for CUDA 13.0, which needs 580"),
        ("13.0", "535.183.01", {"SLURM_JOB_GPUS": "3"}, "this job (SLURM_JOB_GPUS=3) has a GPU"),
        ("13.0", "535.183.01", {}, "this machine has a GPU, whose driver is too old"),
        ("12.6", "470.57.02", {}, "which needs 525 (driver 470.57.02, torch 2.13.0): "),
        ("13.0", None, {"CUDA_VISIBLE_DEVICES": "MIG-1a2b"}, "torch with CUDA 13.0 finds none (driver unknown"),
        ("13.0", "580.65.06", {}, "see whether nvidia-smi lists it"),
        (
            None,
            "580.65.06",
            {},
            "is built without CUDA (driver 580.65.06, torch 2.13.0): pip install --force-reinstall torch",
        ),
        (None, "570.86.15", {}, "whl/cu126"),
        ("13.0", "535.183.01", {"CUDA_VISIBLE_DEVICES": ""}, None),
        ("13.0", "535.183.01", {"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ("13.0", "535.183.01", {"CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_JOB_ID": "17"}, None),
        ("13.0", None, {}, None),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_torch_cannot_use_stops_a_job(monkeypatch, cuda, driver, environment, expected):
    """Unless it is hidden, or the config says cpu."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    monkeypatch.setattr(gpu_support, "_driver", lambda: driver)
    monkeypatch.setattr(gpu_support.Path, "glob", lambda *_: iter([gpu_support.Path("/dev/nvidia0")]))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with occupied_device("cpu") as device:
        assert device == torch.device("cpu")
    devices._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert [choose_device(name) for name in ("cpu", "auto", "auto")] == [torch.device("cpu")] * 3
    assert [str(warning.message).startswith("computing on the CPU: this ") for warning in warned] == [True] * bool(expected)
    assert all(expected in str(warning.message) and warning.filename == __file__ for warning in warned)
    if expected is None:
        with occupied_device("auto") as device:
            assert device == torch.device("cpu")
        return
    for name in ("auto", "cuda"):
        with pytest.raises(ValueError, match="has a GPU") as refused, occupied_device(name):
            pass
        assert expected in str(refused.value)
        assert "config.yaml: device" in str(refused.value)


@pytest.mark.parametrize(("text", "version"), [(OPEN, "570.86.15"), (CLOSED, "535.183.01"), ("something else\n", None)])
def test_the_version_of_the_driver_is_read(monkeypatch, text, version):
    monkeypatch.setattr(gpu_support.Path, "read_text", lambda _: text)
    assert gpu_support._driver() == version


def test_the_largest_batch_is_found_by_halving():
    tried = []

    def step(size, limit):
        tried.append(size)
        if size > limit:
            raise (torch.OutOfMemoryError, RuntimeError)[len(tried) % 2]("CUDA error: out of memory")

    assert largest_batch(lambda size: step(size, 20), 100) == 12
    assert tried == [50, 25, 12]
    tried.clear()
    assert largest_batch(lambda size: step(size, 0), 100) == 0
    assert tried == [50, 25, 12, 6, 3]  # not one image, on which batch norm cannot be trained
    with pytest.raises(RuntimeError, match="something else"):
        largest_batch(lambda _: (_ for _ in ()).throw(RuntimeError("something else")), 100)
