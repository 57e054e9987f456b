"""A finished run as one file to publish: a zip with its config, provenance, checksums, tables, figures and networks.

    python -m relstab.report.archive results relstab-results.zip --license CC-BY-4.0

RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) is a folder with ``ro-crate-metadata.json``, which Zenodo and others read.
"""

import datetime
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

import relstab
from relstab.files.description import origin_of
from relstab.files.hdf5 import atomic_path, file_digest
from relstab.files.plan import read_plan_of

__all__ = ["provenance", "write_archive"]

_REPORT = "report.html"
_LEFT_OUT = {
    "datasets": "images, which may not be yours to publish; the run makes them from the published files",
    "probes": "images and their perturbations; the run makes them from the data set and its seed",
}
"""Folders that an archive leaves out, and why."""
_MEDIA = {
    ".csv": "text/csv",
    ".h5": "application/x-hdf5",
    ".html": "text/html",
    ".json": "application/json",
    ".log": "text/plain",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".tsv": "text/tab-separated-values",
    ".yaml": "application/yaml",
}


def _files(results: Path) -> Iterator[str]:
    """Names of the files to archive. Hidden files are left out, except the records in .made."""
    for folder, folders, files in os.walk(results):
        at_top = Path(folder) == results
        folders[:] = sorted(
            name
            for name in folders
            if (not name.startswith(".") or (at_top and name == ".made"))
            and not name.endswith(".checkpoints")
            and not (at_top and name in _LEFT_OUT)
        )
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(folder, name).relative_to(results).as_posix()


def provenance(results: str | Path) -> dict[str, Any]:
    """Provenance of a run: its config, and for each file its digest, rule, wildcards and options, and the code that made it.

    Raises:
        ValueError: the run has no report, its last output.
    """
    results = Path(results)
    report = read_plan_of(_REPORT, results) if (results / _REPORT).is_file() else {}
    if not report:
        raise ValueError(
            f"expected a finished run with its report in {results}, got none: run `snakemake report --cores 8` first"
        )
    files = []
    for name in _files(results):
        path = results / name
        entry: dict[str, Any] = {"path": f"results/{name}", "bytes": path.stat().st_size, "sha256": file_digest(path)}
        plan = read_plan_of(name, results) if not name.startswith(".made/") else {}
        if plan:
            entry |= {"rule": plan["rule"], "wildcards": plan["wildcards"]}
            # The report's options are the whole config, which is given above.
            entry |= {} if name.startswith("report") else {"options": plan["options"]}
        if name.endswith(".h5"):
            entry["made_with"] = origin_of(path)
        files.append(entry)
    return {
        "relstab": relstab.__version__,
        "python": sys.version.split()[0],
        "config": report["options"]["config"],
        "left_out": {name: why for name, why in _LEFT_OUT.items() if (results / name).is_dir()},
        "files": files,
    }


def _license(name: str) -> tuple[Any, list[dict[str, Any]]]:
    """The property ``license`` of an RO-Crate, which must have one, and the entity that it names."""
    if not name:
        return "No license was stated: ask the authors of this run before you use it.", []
    if name.startswith(("https://", "http://")):
        address = name
    else:
        try:
            name = canonicalize_license_expression(name)
        except InvalidLicenseExpression:
            raise ValueError(
                f"expected the SPDX identifier of a license (CC-BY-4.0, MIT, ...) or its address, https://..., got {name!r}"
            ) from None
        address = f"https://spdx.org/licenses/{name}"
    entity = {"@id": address, "@type": "CreativeWork", "name": name, "description": "The license of this run's files"}
    return {"@id": address}, [entity]


def _crate(run: dict[str, Any], date: str, license_name: str) -> dict[str, Any]:
    """The metadata of the RO-Crate."""
    about = [("config.yaml", "The config of the run, with all its keys"), ("provenance.json", "How each file came about")]
    parts = [{"@id": name, "@type": "File", "name": words, "encodingFormat": _MEDIA[Path(name).suffix]} for name, words in about]
    for file in run["files"]:
        media = _MEDIA.get(Path(file["path"]).suffix, "application/octet-stream")
        parts.append(
            {"@id": file["path"], "@type": "File", "contentSize": str(file["bytes"]), "sha256": file["sha256"]}
            | {"encodingFormat": media}
        )
    name = f"relstab on {run['config']['data']['name']}"
    license_text, license_entity = _license(license_name)
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": name,
        "description": "A run of relstab: sensitivities of trained networks to diffeomorphisms and noise. "
        "results/report.html says what was run and what it found.",
        "datePublished": date,
        "license": license_text,
        "hasPart": [{"@id": part["@id"]} for part in parts],
    }
    head = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": [head, root, *parts, *license_entity]}


def write_archive(results: str | Path, archive: str | Path, license_name: str = "") -> dict[str, Any]:
    """Write a finished run as a zip, atomically. Data sets and probes are left out.

    In the archive: ``config.yaml``, ``provenance.json``, ``SHA256SUMS`` (``sha256sum --check`` reads it),
    ``ro-crate-metadata.json``, and ``results/``.

    Args:
        results: folder of a run that has its report.
        archive: file to write.
        license_name: of the results, an SPDX identifier or an address; "": the archive says that none was stated.

    Returns:
        The provenance.

    Raises:
        ValueError: the run has no report, or there is no such license.
    """
    results, run = Path(results), provenance(results)
    date = datetime.datetime.fromtimestamp((results / _REPORT).stat().st_mtime, datetime.UTC).date().isoformat()
    texts = {
        "config.yaml": yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=True),
        "provenance.json": json.dumps(run, indent=1) + "\n",
        "ro-crate-metadata.json": json.dumps(_crate(run, date, license_name), indent=1) + "\n",
    }
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    sums |= {file["path"]: file["sha256"] for file in run["files"]}
    texts["SHA256SUMS"] = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    with (
        atomic_path(archive) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as file,
    ):
        for name, text in texts.items():
            file.writestr(name, text)
        for entry in run["files"]:
            file.write(results / entry["path"].removeprefix("results/"), entry["path"])
    return run


@click.command()
@click.argument("results")
@click.argument("archive")
@click.option("--license", "license_name", default="", help="Of the results: an SPDX identifier (CC-BY-4.0, ...) or an address.")
def main(results: str, archive: str, license_name: str) -> None:
    """Write the folder RESULTS of a finished run as the zip ARCHIVE."""
    try:
        run = write_archive(results, archive, license_name)
    except (ValueError, OSError) as error:
        raise SystemExit(f"relstab: {error}") from None
    print(f"{archive}: {len(run['files'])} files, {Path(archive).stat().st_size / 1e6:.1f} MB")
    for name, why in run["left_out"].items():
        print(f"left out: {results}/{name} ({why})")
    if not license_name:
        print("no license: the archive says that none was stated; others may use it if you name one, such as CC-BY-4.0")


if __name__ == "__main__":
    main()
