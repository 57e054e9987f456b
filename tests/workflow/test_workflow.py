"""The workflow as a user runs it: made once, small; then what a change makes anew, and what happens after a kill."""

import os
import re
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import ENSEMBLES, FEW, FEW_TABLES, RESULTS, SMOKE, assert_same_results, changed, command, contents, run


def overlay(path, **changes):
    """The smoke config with some keys replaced, written to ``path``; keys of sections are joined by two underscores."""
    change = {key.replace("__", "."): value for key, value in changes.items()}
    path.write_text(yaml.safe_dump(changed(yaml.safe_load(SMOKE.read_text()), change)))
    return path


# What follows a training of lenet; the others keep no snapshots.
OVER_TRAINING = {"sensitivity_over_training", "table_over_training", "over_training"}


def test_all_that_is_promised_is_there(finished):
    results = finished / RESULTS
    networks = pd.read_csv(results / "tables/networks.csv")
    assert len(networks) == 6
    sensitivity = pd.read_csv(results / "tables/sensitivity.csv", dtype={"shuffle": str})
    inputs = sensitivity[sensitivity["layer"] == "input"]
    np.testing.assert_allclose(inputs["R"], 1, rtol=1e-5)
    assert set(sensitivity["shuffle"]) == {"none", "0", "1"}
    assert set(sensitivity.query("shuffle != 'none'")["architecture"]) == {"lenet", "vgg11_bn"}
    # Shuffles leave the input as it is, and change what follows the second convolution.
    assert set(sensitivity["state"]) == {"init", "init_frozen", "trained"}
    rows = sensitivity.query("architecture == 'lenet' and noise == 0 and state == 'trained' and statistics != 'recalibrated'")
    rows = rows.set_index(["shuffle", "index"])
    for shuffle in ("0", "1"):
        assert rows.loc[(shuffle, 0), "D"] == rows.loc[("none", 0), "D"]
        assert rows.loc[(shuffle, 4), "D"] != rows.loc[("none", 4), "D"]
    assert rows.loc[("0", 4), "D"] != rows.loc[("1", 4), "D"]
    claims = pd.read_csv(results / "tables/claims.csv", dtype={"claim": str})
    expected = ["1", "1'", "2", "2'", "3", "4", "5", "5a", "5b", "6", "7a", "7b", "7c", "8", "9", "10", "11", "12", "12a", "12b"]
    assert claims["claim"].drop_duplicates().tolist() == expected
    assert len(list((results / "figures").glob("*.pdf"))) == len(list((results / "figures").glob("*.png"))) == 16
    layers = pd.read_csv(results / "tables/scale_detection_layers.csv")
    ensembles = layers[layers["state"] != "homogeneous"]
    assert set(ensembles["experiment"] + "/" + ensembles["activation"]) == ENSEMBLES
    assert set(ensembles["seed"]) == set(range(5))
    assert set(ensembles["state"]) == {"init", "trained", "decayed"}
    exponents = pd.read_csv(results / "tables/scale_detection.csv").query("state == 'homogeneous'")
    exponents = exponents.set_index(["experiment", "sensitivity"])
    for name, expected, near in (("stride1", (-2, 1), 0.2), ("strided", (-1, 1), 0.06)):
        for which, value in zip(("D", "G"), expected, strict=True):
            row = exponents.loc[(f"homogeneous_{name}", which)]
            assert row["predicted"] == value
            assert abs(row["exponent"] - value) < near
    pairs = pd.read_csv(results / "tables/scale_detection_sensitivity.csv")
    assert set(pairs["dataset"]) == {"pairs"}
    assert set(pairs["state"]) == {"init", "init_frozen", "trained"}
    over_training = pd.read_csv(results / "tables/over_training.csv")
    assert sorted(over_training["epoch"].unique()) == [0, 1, 2, 3, 6]
    assert set(over_training["architecture"]) == {"lenet"}
    assert set(over_training["noise"]) == {0, 10}
    # Two ways to the same numbers: the weights at initialization and at the end are measured with all networks, too.
    for epoch, state in ((0, "init"), (6, "trained")):
        mine = over_training[over_training["epoch"] == epoch].sort_values(["noise", "index"])["D"].to_numpy()
        theirs = sensitivity[sensitivity["state"] == state].query("architecture == 'lenet' and shuffle == 'none'")
        np.testing.assert_array_equal(mine, theirs.sort_values(["noise", "index"])["D"].to_numpy())
    assert (results / "report.html").stat().st_size > 100_000
    assert (results / "report_workflow.html").stat().st_size > 100_000
    assert not list(results.rglob("*.partial-*"))
    for log in (results / "logs").rglob("*.log"):
        assert re.fullmatch(r"work: [\d.]+ s", log.read_text().splitlines()[-1]), log


def test_captions_of_snakemakes_own_report_have_their_numbers(finished):
    text = (finished / RESULTS / "report_workflow.html").read_text()
    for words in ("when the whole 0.95 bootstrap interval", "with a 0.95 bootstrap interval", r"test error is below 0.9\n"):
        assert words in text, words


def test_every_file_says_what_made_it(finished):
    for path in (finished / RESULTS).rglob("*.h5"):
        attributes = contents(path)["/"]
        assert {"parameters", "relstab_version", "git_commit", "torch_version", "device"} <= set(attributes), path


def test_a_second_run_has_nothing_to_do(planners, finished):
    assert planners.planned(finished) == {}
    before = {path: path.stat().st_mtime_ns for path in (finished / RESULTS).rglob("*.*") if path.name != ".lock"}
    assert len(before) > 60
    done = run(finished, "all_figures", "--cores", "8")
    assert "Nothing to be done" in done.stdout + done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (finished / RESULTS).rglob("*.*") if path.name != ".lock"}


def test_jobs_are_selected_when_one_has_ended_and_not_every_second(finished, tmp_path):
    """Before each of 5 jobs, one by one. With Snakemake's limit of jobs per second, 9 figures took 111 selections."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    figures = sorted(str(path.relative_to(finished)) for path in (finished / RESULTS / "figures").glob("*.png"))[:5]
    done = run(tmp_path / "run", *figures, "--cores", "1", "--verbose", "--forcerun", "figure")
    output = done.stdout + done.stderr
    assert output.count("Finished jobid") == 5
    assert output.count("Resources before job selection") <= 10


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_another_place_reruns_nothing(planners, finished, tmp_path, how):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, symlinks=True)  # keeps the times of files
    if how == "moved":
        copy = copy.rename(tmp_path / "moved")
    assert planners.planned(copy) == {}


NETWORKS_OF = "networks/mnist5k/{}/noise{}/seed{}.h5"


@pytest.mark.parametrize(
    ("rule", "keys"),
    [
        ("prepare_dataset", ("data__train_images", "data__test_images")),
        ("pair_dataset", ("scale_detection__images__train_pairs", "scale_detection__images__test_pairs")),
    ],
)
def test_two_numbers_that_change_places_are_a_change(planners, finished, tmp_path, rule, keys):
    """Snakemake compares the values of params without their names."""
    folder = tmp_path / "swapped"
    shutil.copytree(finished, folder, symlinks=True)
    others = {"probes__images": 50, "scale_detection__probes": 50}
    first = overlay(tmp_path / "first.yaml", **dict(zip(keys, (200, 300), strict=True)), **others)
    run(folder, "all", "--cores", "2", "--until", rule, config=first)
    assert rule not in planners.planned(folder, config=first)
    second = overlay(tmp_path / "second.yaml", **dict(zip(keys, (300, 200), strict=True)), **others)
    assert rule in planners.planned(folder, config=second)


def test_without_snapshots_nothing_is_measured_or_drawn_over_training(planners, finished, tmp_path):
    changed = {"epochs": 6, "snapshots": 0}
    jobs = planners.planned(finished, overlay(tmp_path / "c.yaml", recipes__lenet=changed))
    assert jobs["train"] == {NETWORKS_OF.format("lenet", n, 0) for n in (0, 10)}
    assert not OVER_TRAINING & set(jobs)


def test_without_scale_detection_none_of_it_is_made(planners, tmp_path):
    jobs = planners.planned(tmp_path, overlay(tmp_path / "c.yaml", scale_detection__enabled=False))
    made = {path for paths in jobs.values() for path in paths}
    assert not [path for path in made if "pairs" in path or "scale_detection" in path]
    assert not {"train_ensemble", "homogeneous_sensitivity", "table_scale_detection_layers"} & set(jobs)
    assert len(jobs["train"]) == 6


def test_more_architectures_than_figure_4_shows_get_two_more_figures(planners, finished, tmp_path):
    more = ["fc2", "lenet", "vgg11_bn", "vgg11", "vgg13", "vgg16", "alexnet"]
    assert not {"fig12", "fig13"} & set(planners.planned(finished, overlay(tmp_path / "c.yaml", architectures=more)))
    assert "fig12" in (jobs := planners.planned(finished, overlay(tmp_path / "c.yaml", architectures=[*more, "vgg19"])))
    assert "fig13" not in jobs
    assert {"fig12", "fig13"} <= set(planners.planned(finished, overlay(tmp_path / "c.yaml", architectures=[*more, "resnet18"])))


def test_a_network_of_torchvision_trains_nothing(planners, finished, tmp_path):
    spectra = {"imagenet_network", "spectra", "table_imagenet_spectrum", "fig14"}
    jobs = planners.planned(finished, overlay(tmp_path / "c.yaml", imagenet__networks=["resnet18"]))
    assert jobs["imagenet_network"] == {"networks/imagenet/resnet18/noise0/seed0.h5"}
    assert jobs["spectra"] == {"spectra/imagenet/resnet18/noise0/seed0.h5"}
    assert set(jobs) == spectra
    changes = {"imagenet__networks": ["resnet18"], "imagenet__images": "some"}
    measured = {"imagenet_images", "imagenet_probes", "sensitivity", "shuffled_sensitivity", "table_imagenet_sensitivity"}
    jobs = planners.planned(finished, overlay(tmp_path / "c.yaml", **changes))
    assert set(jobs) == spectra | measured | {"imagenet_shuffled_layers"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"probes__cutof": 4},
            "expected one of the keys images, displacement, cutoff, interpolation, sweep, sweep_architectures, got 'cutof'",
        ),
        ({"seeds": "two"}, "expected a whole number, got 'two' (config.yaml with wrong.yaml: seeds)"),
    ],
)
def test_a_wrong_config_stops_before_any_job_with_one_sentence(planners, tmp_path, change, sentence):
    with pytest.raises(RuntimeError) as error:
        planners.snakemake(tmp_path, "all", "--cores", "1", config=overlay(tmp_path / "wrong.yaml", **change))
    text = str(error.value)
    assert "config.yaml with wrong.yaml: " in text
    assert sentence in text
    assert "Traceback" not in text
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written_to_are_one_sentence(tmp_path):
    """As a read-only folder, which root could write to."""
    (tmp_path / RESULTS / ".lock").mkdir(parents=True)
    done = run(tmp_path, RESULTS / "tables/scale_detection_samples.csv", "--cores", "1", check=False)
    assert done.returncode != 0
    assert "expected a folder of results to write to, got results/smoke (Is a directory): name another" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_fails_says_why_in_one_sentence_and_leaves_no_file(tmp_path):
    config = overlay(tmp_path / "c.yaml", data__test_images=None, probes__images=1001)
    done = run(tmp_path, "all", "--cores", "2", "--until", "probes", config=config, check=False)
    assert done.returncode != 0
    sentence = "expected at least 1001 test images, as many as are perturbed, got 1000: lower probes.images (config.yaml)"
    assert f"relstab: prepare_dataset (dataset mnist5k): data set 'mnist5k': {sentence}" in done.stdout + done.stderr
    assert not list((tmp_path / RESULTS).rglob("*.h5"))
    log = tmp_path / RESULTS / "logs/prepare_dataset/mnist5k.log"
    assert "Traceback" in log.read_text()


def start(folder):
    with (folder / "out.txt").open("a") as out:
        return subprocess.Popen(
            command(folder, *FEW_TABLES, "--cores", "2", config=folder / FEW),
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Where the tests themselves run in the background, Ctrl-C is ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def whole_files(folder):
    return [path for path in (folder / RESULTS).rglob("*.h5") if ".partial-" not in path.name]


def wait_for_files(process, folder, count):
    """Wait until the run has made ``count`` files, or has ended."""
    while process.poll() is None and len(whole_files(folder)) < count:
        time.sleep(0.05)


def interrupt(process, how):
    if how == "Ctrl-C":  # the terminal sends it to all processes of the group
        os.killpg(process.pid, signal.SIGINT)
    elif how == "kill":
        process.terminate()
    elif how == "kill -9 of all":
        os.killpg(process.pid, signal.SIGKILL)
    else:  # of Snakemake alone: its jobs go on without it
        process.kill()


def assert_no_other_run_can_write(planners, folder):
    other = run(folder, *FEW_TABLES, "--cores", "1", config=folder / FEW, check=False)
    assert other.returncode != 0
    assert "another run is writing to results/smoke" in other.stdout + other.stderr
    assert "Traceback" not in other.stdout + other.stderr
    assert "table_claims" in planners.planned(folder, folder / FEW)  # looking is allowed


def assert_the_event_files_are_the_history(results):
    history = pd.read_csv(results / "tables/history.csv")
    for (noise, seed), rows in history.groupby(["noise", "seed"]):
        events = EventAccumulator(str(results / f"logs/train/mnist5k/lenet/noise{noise:g}/seed{seed}")).Reload()
        for name in ("learning_rate", "train_loss", "test_error"):
            points = [(event.step, event.value) for event in events.Scalars(name)]
            np.testing.assert_allclose(points, rows[["epoch", name]], rtol=1e-6, err_msg=f"{name} at noise {noise}, seed {seed}")


def test_interrupted_runs_complete_with_the_same_numbers(planners, finished_few, tmp_path):
    """Interrupted in four ways at moments spread over the run, by how many of its files are there; then run to the end."""
    shutil.copy(finished_few / FEW, tmp_path)
    everything = sum(file.endswith(".h5") for job in planners.plan(tmp_path, tmp_path / FEW) for file in job.outputs)
    ways = ["Ctrl-C", "kill -9 of all", "kill", "kill -9 of Snakemake"]
    for number, way in enumerate(ways):
        done = len(whole_files(tmp_path))
        process = start(tmp_path)
        # At least one more than the last time, so that every run gets somewhere; jobs are in mid-work then.
        wait_for_files(process, tmp_path, max(done + 1, (number + 1) * everything // (len(ways) + 2)))
        if number == 0:
            assert_no_other_run_can_write(planners, tmp_path)
        assert process.poll() is None, f"the run ended before it was interrupted: {way}"
        interrupt(process, way)
        assert process.wait(timeout=120) != 0, way
        assert len(whole_files(tmp_path)) > 0
        assert all(h5py.is_hdf5(path) for path in whole_files(tmp_path))
    assert not (tmp_path / RESULTS / "tables/claims.csv").exists(), "nothing was left to complete"
    # On one core, where the undisturbed run had two: neither their number nor the order of jobs matters.
    run(tmp_path, *FEW_TABLES, "--cores", "1", config=tmp_path / FEW)
    assert {job.rule for job in planners.plan(tmp_path, tmp_path / FEW) if job.runs} == {"figure"}
    assert_same_results(finished_few / RESULTS, tmp_path / RESULTS, ".h5", ".csv", part=True)
    assert_the_event_files_are_the_history(tmp_path / RESULTS)
