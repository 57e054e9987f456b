import multiprocessing
import time
from collections.abc import Callable

import pytest
import torch

from relstab.runs import devices
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
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"amx_bf16": has})
        assert choose_precision("auto", cpu) == (torch.bfloat16 if has else torch.float32)
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


def hold(folder, names, slots, taken):
    with acquire_gpu(folder, names, slots) as index:
        taken.send(index)
        time.sleep(600)


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


def test_jobs_take_different_gpus_and_a_named_one_is_taken_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: type("P", (), {"uuid": f"GPU-{index}"}))
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    with occupied_device("auto") as first, occupied_device("cuda") as second:
        assert {first, second} == {torch.device("cuda", 0), torch.device("cuda", 1)}
        with occupied_device("cuda:1", jobs_per_gpu=2) as named:
            assert named == torch.device("cuda", 1)
            # The only place that is left is on the other one.
            with occupied_device("auto", jobs_per_gpu=2) as third:
                assert third == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with occupied_device("auto") as place:
        assert place == torch.device("cpu")


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
