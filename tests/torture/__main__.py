"""The command of `make torture`: all faults, and a table of what came of them."""

import argparse
import sys

import torch

from torture.everything import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=60, help="bytes flipped in each kind of file; kills and disks are a third")
    parser.add_argument("--workflow", type=int, default=4, help="kills of the whole workflow")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counted = run(arguments.seed, arguments.number, arguments.workflow)
    print("\n".join([*counted.lines(), *counted.wrong]))
    sys.exit(1 if counted.wrong else 0)
