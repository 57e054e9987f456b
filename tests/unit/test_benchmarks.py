"""What benchmarks compute beside times: the check of a GPU as it runs on a CPU, and the work of a config's grid."""

import pytest

from helpers import ROOT


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """Benchmarks import each other by their file names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def gpu_check():
    import gpu_check

    return gpu_check


@pytest.fixture
def grid():
    import grid

    return grid


@pytest.mark.slow
def test_every_part_of_the_check_of_a_gpu_runs_on_a_cpu(gpu_check, capsys):
    gpu_check.main(["--device", "cpu", "--quick"])
    text = capsys.readouterr().out
    assert "FAILED" not in text
    assert "STOPPED" not in text
    assert text.count("twice same, from a checkpoint same, without graphs same") == 1
    assert "weights same" in text
    ends = [line for line in text.splitlines() if not line.startswith(" ") and line.endswith(" s")]
    assert [line.partition(":")[0] for line in ends] == list(gpu_check.PARTS)


def test_a_part_that_fails_says_so_in_one_line_and_the_next_runs(gpu_check, monkeypatch, capsys):
    def fails(_check):
        raise RuntimeError("CUDA error:\n  an illegal memory access")

    monkeypatch.setitem(gpu_check.PARTS, "repeat", (fails, 0.5))
    gpu_check.main(["--device", "cpu", "--quick", "repeat", "card"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["repeat", "repeat: FAILED: RuntimeError: CUDA error: an illegal memory access"]
    assert lines[2] == "card"
    assert lines[-1].startswith("card: ")


def test_an_architecture_that_fails_says_so_and_the_next_one_is_checked(gpu_check, monkeypatch, capsys):
    right = gpu_check.small_run

    def fails(check, name, work=None):
        if name == "resnet18":
            raise RuntimeError("no kernel image is available")
        return right(check, name, work)

    monkeypatch.setattr(gpu_check, "small_run", fails)
    check = gpu_check.Check("cpu", quick=True, names=["resnet18", "lenet"])
    gpu_check.run_part("repeat", check, 60)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["resnet18", "FAILED:", "RuntimeError:", "no", "kernel", "image", "is", "available"]
    assert lines[2].split()[:3] == ["lenet", "twice", "same,"]


def test_the_grid_of_the_paper_has_its_networks_and_steps(grid):
    groups = [group for group in grid.deep_networks(grid.config_of(str(ROOT / "configs/paper.yaml"))) if group.kind == "data set"]
    assert sum(group.networks for group in groups) == 511  # (3 x 11 + 10 x 4) seeds at 7 noise levels
    assert sum(group.steps for group in groups) == 511 * 250 * 391  # 390 batches of 128 and one of 80
    assert sum(group.evaluated for group in groups) == 511 * 250 * 10_000


def test_sizes_of_the_training_set_are_trained_each(grid):
    config = grid.config_of(str(ROOT / "configs/training_sizes.yaml"))
    sizes = config.data.train_images
    assert len(sizes) > 1
    groups = [group for group in grid.deep_networks(config) if group.kind == "data set"]
    assert [group.images for group in groups] == [*sizes] * len(config.architectures)
    for group in groups:
        assert group.networks == len(config.seeds_of(group.name)) * len(config.noise)
        assert group.steps == group.networks * group.recipe.epochs * group.recipe.steps_per_epoch
