"""Do networks trained in bfloat16 differ from those trained in float32 by more than two seeds do?

Trains the networks of the default config on clean images with each precision and the same seeds, measures all of them in float32,
and compares error, D, G and R of the output: the difference of the means over seeds, in units of the standard deviation over
seeds, with the 95% interval and the p-value of the paired t-test (networks of one seed begin alike and see the same batches).

    python benchmarks/precision.py [SEEDS [PROCESSES]]
"""

import contextlib
import io
import math
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from scipy import stats

import relstab
from relstab.config import Config, load_config
from relstab.files.dataset import read_dataset, read_noisy_test
from relstab.files.hdf5 import open_hdf5
from relstab.stages.datasets import prepare_dataset, write_noisy_test
from relstab.stages.probes import perturb_test_images
from relstab.stages.sensitivity import measure_network

HERE = Path(__file__).parent
PRECISIONS = ("float32", "bfloat16")
MEASURES = ("error", "D", "G", "R")


def network(config: Config, folder: Path, architecture: str, precision: str, seed: int) -> dict[str, object]:
    """Error and sensitivities of the output of one network."""
    torch.set_num_threads(1)
    dataset = read_dataset(folder / "dataset.h5")
    test = read_noisy_test(folder / "test.h5")
    recipe = config.training_of(architecture).model_copy(update={"precision": precision})
    name = f"{architecture}-{precision}-{seed}"
    with contextlib.redirect_stdout(io.StringIO()):
        trained = relstab.train_network(architecture, dataset, test, recipe, 0.0, seed, config.seed, "cpu")
        relstab.save_network(folder / f"{name}.h5", trained)
        measure_network(folder / f"{name}-s.h5", folder / f"{name}.h5", folder / "probes.h5", device="cpu")
    row: dict[str, object] = {"architecture": architecture, "precision": precision, "seed": seed}
    row["error"] = trained.history[-1]["test_error"]
    with open_hdf5(folder / f"{name}-s.h5") as file:
        row.update({key: float(file[f"trained/{key}"][-1]) for key in ("D", "G", "R")})
    return row


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each architecture and measure, of log D, log G and log R and of the error."""
    table = table.sort_values("seed", kind="stable")
    rows = []
    for architecture, group in table.groupby("architecture", sort=False):
        for measure in MEASURES:
            one, two = (group.loc[group["precision"] == precision, measure].to_numpy() for precision in PRECISIONS)
            if measure != "error":
                one, two = np.log(one), np.log(two)
            spread = math.sqrt((one.var(ddof=1) + two.var(ddof=1)) / 2)
            test = stats.ttest_rel(two, one)
            low, high = test.confidence_interval(0.95)
            rows.append(
                {
                    "architecture": architecture,
                    "measure": measure if measure == "error" else f"log {measure}",
                    "float32": one.mean(),
                    "bfloat16": two.mean(),
                    "seed_std": spread,
                    "difference_in_std": (two.mean() - one.mean()) / spread,
                    "low": low / spread,
                    "high": high / spread,
                    "p": test.pvalue,
                }
            )
    return pd.DataFrame(rows)


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    config = load_config(yaml.safe_load((HERE.parent / "config.yaml").read_text()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_dataset(folder / "dataset.h5", config.data.name)
        write_noisy_test(folder / "test.h5", folder / "dataset.h5", 0.0, config.seed)
        options = config.probes
        perturb_test_images(
            folder / "probes.h5", folder / "test.h5", options.images, options.displacement, options.cutoff, options.interpolation
        )
        jobs = [(a, p, s) for s in range(seeds) for a in config.architectures for p in PRECISIONS]
        with ProcessPoolExecutor(int(sys.argv[2]) if len(sys.argv) > 2 else None) as pool:
            futures = [pool.submit(network, config, folder, *job) for job in jobs]
            rows = []
            for done, future in enumerate(futures, start=1):
                rows.append(future.result())
                print(f"{done} of {len(jobs)}: {rows[-1]}", flush=True)
    networks = pd.DataFrame(rows)
    networks.to_csv(HERE / "precision.csv", index=False)
    table = compare(networks)
    print(table.round(3).to_string(index=False))
    print(f"smallest p of {len(table)}: {table['p'].min():.3f} (Bonferroni's limit at 5%: {0.05 / len(table):.4f})")


if __name__ == "__main__":
    main()
