"""What several tests share: paths, runs of the workflow, tables whose numbers are known, a server that fails on demand."""

import contextlib
import copy
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import psutil
import torch
import yaml

DATA = Path(__file__).parent / "data"


ROOT = Path(__file__).parents[1]


SMOKE = ROOT / "configs" / "smoke.yaml"


class Reference:
    """Numbers of the reference implementation: arrays as float64 tensors, figures as they are."""

    def __init__(self) -> None:
        self.arrays = np.load(DATA / "reference.npz")
        self.figures: dict[str, Any] = json.loads((DATA / "reference.json").read_text())

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])


def command(folder, *arguments, config=SMOKE, source=ROOT):
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(source / "Snakefile"), "--directory", str(folder)]
    return [*snakemake, *arguments, "--configfile", str(config)]


def run(folder, *arguments, config=SMOKE, check=True, source=ROOT):
    done = subprocess.run(
        command(folder, *arguments, config=config, source=source),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def changed(raw, change):
    """The config ``raw`` with other values at dotted keys."""
    new = copy.deepcopy(raw)
    for key, value in change.items():
        *sections, last = key.split(".")
        section = new
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return new


def copy_checkout(folder):
    """A copy of what a run reads of this checkout."""
    for name in ("workflow", "profiles", "envs", "src", "configs", "slurm"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, folder)
    return folder


def edited(folder, *edits):
    """A copy of what a run reads of this checkout, with other texts in files of its workflow."""
    copy_checkout(folder)
    for name, pattern, new in edits:
        path = folder / "workflow" / name
        text, count = re.subn(pattern, new, path.read_text(), flags=re.MULTILINE)
        assert count == 1, f"expected {pattern} once in {name}, got {count}"
        path.write_text(text)
    return folder


RESULTS = Path("results/smoke")
FEW = "few.yaml"
FEW_TABLES = ("all_tables", "claims")
FEW_TARGETS = (*FEW_TABLES, *(f"{RESULTS}/figures/{name}.png" for name in ("fig01_relative_sensitivity", "learning_curves")))


def few_networks():
    """The smoke config with one architecture and one experiment of simple CNNs: a job of each rule at least, event files."""
    config = yaml.safe_load(SMOKE.read_text())
    config |= {"architectures": ["lenet"], "training_log": "tensorboard"}
    simple = config["scale_detection"]["simple"]
    first = next(name for name, experiment in simple.items() if experiment)
    config["scale_detection"]["simple"] = dict.fromkeys(simple) | {first: simple[first] | {"activations": ["relu"]}}
    return yaml.safe_dump(config)


ENSEMBLES = {"task1_stride1/relu", "task1_stride1/tanh", "task2_strided/relu"}


def contents(path):
    """Everything in an HDF5 file: attributes and arrays by their names."""
    found = {}
    with h5py.File(path) as file:
        found["/"] = dict(file.attrs)

        def keep(name, item):
            found[name] = dict(item.attrs) if isinstance(item, h5py.Group) else item[()]

        file.visititems(keep)
    return found


def assert_same_results(first, second, *suffixes, part=False):
    """Files of all kinds, or of some, are the same in two folders, or in the second and a part of the first."""
    suffixes = suffixes or (".h5", ".csv", ".pdf", ".png")
    others, names = (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in suffixes)
        for folder in (first, second)
    )
    assert names == ([name for name in others if name in names] if part else others)
    assert names
    for name in names:
        if name.endswith(".h5"):
            one, two = contents(first / name), contents(second / name)
            assert one.keys() == two.keys()
            for key in one:
                np.testing.assert_equal(two[key], one[key], err_msg=f"{name}: {key}")
        else:
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


DEPTHS = {"init": 0.0, "trained": -1.5}


def synthetic(networks=12, noise=(0.0,), exponent=2.0, shuffles=2):
    """Tables of networks whose error is 0.2 R^(1/exponent), whose R_k falls by e^-1.5 with depth when trained, and so on."""
    rng = np.random.default_rng(0)
    errors, layers, gammas = [], [], []
    for level in noise:
        for seed in range(networks):
            keys = {"dataset": "some", "architecture": "lenet", "noise": level, "seed": seed}
            r = math.exp(-1.5 + 0.5 * rng.normal())
            error = 0.2 * r ** (1 / exponent)
            errors.append({**keys, "test_error": error, "train_loss": 0.1, "epochs": 3, "learned": True, "test_images": 1000})
            for state, fall in DEPTHS.items():
                for shuffle in ["none", *map(str, range(shuffles))]:
                    rise = 0.0 if shuffle == "none" else 0.3
                    statistics = "running" if shuffle == "none" else "stale"
                    scale = math.log(r) if state == "trained" else 0.02 * seed
                    kinds = [("input", "input"), ("c1", "Conv2d"), ("a1", "ReLU"), ("c2", "Conv2d"), ("a2", "ReLU")]
                    for index, (layer, kind) in enumerate([*kinds, ("output", "output")]):
                        depth = index / 5
                        value = math.exp(depth * (scale if fall else 0.5 + scale) + rise * depth)
                        g = 0.5 * value ** (-0.5) * (2.0 if state == "trained" else 1.0)
                        layers.append(
                            {**keys, "state": state, "shuffle": shuffle, "statistics": statistics, "layer": layer, "kind": kind}
                            | {"index": index, "depth": depth, "D": value * g, "G": g, "R": value, "denominator": 1.0}
                            | {"D_sem": 0.01, "G_sem": 0.01, "R_sem": 0.01}
                        )
                for mode in (1, 2):
                    gamma = 2.0 if state == "trained" and mode == 1 else 1.0
                    gammas.append({**keys, "state": state, "layer": "c1", "index": 1, "depth": 1.0, "mode": mode})
                    gammas[-1] |= {"eigenvalue": mode - 1.0, "gamma": gamma * math.exp(0.1 * rng.normal())}
    return pd.DataFrame(errors), pd.DataFrame(layers), pd.DataFrame(gammas)


class Server:
    """HTTP server on the loopback interface, which can be told how to fail.

    Attributes:
        files: contents by path, "/name".
        plan: for the next requests, in their order, how they are answered: a dictionary with any of status (instead of an
            answer), location (its header), body (instead of the content), length (whether it is announced), cut (bytes after
            which the connection is closed) and hold (bytes after which the answer waits for release). Afterwards all is answered
            well.
        requests: path of each that came.
    """

    def __init__(self):
        self.files, self.plan, self.requests = {}, deque(), []
        self.came, self.release = threading.Event(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(self.path)
                plan = server.plan.popleft() if server.plan else {}
                server.came.set()
                with contextlib.suppress(ConnectionError):
                    server.answer(self, **plan)

            def log_message(self, *_args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, to, status=None, body=None, cut=None, hold=None, location=None, length=True):
        body = self.files.get(to.path) if body is None else body
        if status or body is None:
            to.send_response(status or 404)
            if location:
                to.send_header("Location", location)
            to.end_headers()
            return
        to.send_response(200)
        if length:
            to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        end = len(body) if cut is None and hold is None else hold if cut is None else cut
        to.wfile.write(body[:end])
        to.wfile.flush()
        if hold is not None:
            self.release.wait(30)
            to.wfile.write(body[end:])

    def __enter__(self):
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_args):
        self.release.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def wait_for(condition):
    """Wait until something is so, half a minute at most."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def has_ended(process):
    """Whether a process of psutil has ended; where nobody inherits orphans, it stays in the list of processes."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def closed_url():
    """URL on a port of this machine on which nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
