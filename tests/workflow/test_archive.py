"""The archive of a finished run: from it alone a reader checks, shows and reports the run."""

import json
import shutil
import subprocess
import zipfile

import pytest
import yaml
from click.testing import CliRunner

from relstab.cli import main
from relstab.config import load_config
from relstab.report import render_report
from relstab.report.archive import main as write_as_user
from relstab.report.archive import write_archive
from relstab.tables.networks import read_table

from helpers import RESULTS

CC_BY = "https://spdx.org/licenses/CC-BY-4.0"


@pytest.fixture(scope="module")
def unpacked(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    write_archive(finished / RESULTS, folder / "run.zip", "cc-by-4.0")
    with zipfile.ZipFile(folder / "run.zip") as file:
        file.extractall(folder)
    return folder


def test_every_file_has_its_checksum(unpacked):
    done = subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=unpacked, check=False)
    assert done.returncode == 0
    listed = {line.split("  ")[1] for line in (unpacked / "SHA256SUMS").read_text().splitlines()}
    there = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert there - listed == {"SHA256SUMS", "run.zip"}
    assert not any("checkpoint" in name or name.startswith(("results/datasets", "results/probes")) for name in there)


def test_a_network_is_shown_and_the_report_is_written_from_the_archive(unpacked):
    results = unpacked / "results"
    network = next(results.rglob("networks/mnist5k/lenet/noise0/seed0.h5"))
    shown = CliRunner().invoke(main, ["show", str(network)])
    assert shown.exit_code == 0
    assert "network: its weights" in shown.output
    tables = {path.stem: read_table(path) for path in (results / "tables").glob("*.csv")}
    config = yaml.safe_load((unpacked / "config.yaml").read_text())
    figures = sorted((results / "figures").glob("*.png"))
    page = render_report(tables, figures, config, results / "benchmarks", {})
    assert "relstab on mnist5k" in page
    assert load_config(config).model_dump() == config


def test_the_provenance_says_how_each_file_came_about(unpacked):
    run = json.loads((unpacked / "provenance.json").read_text())
    files = {file["path"]: file for file in run["files"]}
    network = files["results/networks/mnist5k/lenet/noise0/seed0.h5"]
    assert network["rule"] == "train"
    assert network["wildcards"]["architecture"] == "lenet"
    assert network["made_with"]["kind"] == "network"
    assert {"git_commit", "torch_version", "device"} <= set(network["made_with"])
    assert files["results/tables/claims.csv"]["rule"] == "table_claims"
    assert set(run["left_out"]) == {"datasets", "probes"}
    # All that the run made says what made it; logs, times and records do not.
    silent = {path.split("/")[1] for path, file in files.items() if "rule" not in file}
    assert silent == {"logs", "benchmarks", ".made"}


def test_the_crate_names_every_file(unpacked):
    graph = {item["@id"]: item for item in json.loads((unpacked / "ro-crate-metadata.json").read_text())["@graph"]}
    assert graph["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    parts = {part["@id"] for part in graph["./"]["hasPart"]}
    assert graph["./"]["license"] == {"@id": CC_BY}
    assert parts == set(graph) - {"./", "ro-crate-metadata.json", CC_BY}
    assert all((unpacked / part).is_file() for part in parts)
    assert {"name", "description", "datePublished"} <= set(graph["./"])


@pytest.fixture
def small_run(finished, tmp_path):
    """Only the report of a finished run, with its record."""
    for name in ("report.html", ".made/report.html.json"):
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished / RESULTS / name, tmp_path / "results" / name)
    return tmp_path


def test_a_license_is_the_users(small_run):
    def archived(*arguments):
        result = CliRunner().invoke(write_as_user, [f"{small_run}/results", f"{small_run}/run.zip", *arguments])
        return result, json.loads(zipfile.Path(small_run / "run.zip", "ro-crate-metadata.json").read_text())["@graph"]

    result, (_, root, *_) = archived()
    assert "no license" in result.output
    assert root["license"].startswith("No license was stated")
    result, (_, root, *_, license_entity) = archived("--license", "https://some.org/terms")
    assert "no license" not in result.output
    assert root["license"] == {"@id": "https://some.org/terms"} == {"@id": license_entity["@id"]}
    result, _ = archived("--license", "mine")
    assert result.exit_code == 1
    assert str(result.exception or result.output).startswith("relstab: expected the SPDX identifier of a license")


def test_a_run_without_its_report_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a finished run with its report in .*: run `snakemake report"):
        write_archive(tmp_path, tmp_path / "run.zip")
    assert not list(tmp_path.iterdir())
