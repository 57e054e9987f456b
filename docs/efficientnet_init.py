"""EfficientNetB0 at initialization on CIFAR-10, JPEG-75: D, G and R of the output under three conventions.

    python docs/efficientnet_init.py IMAGES --seeds 16

IMAGES holds test/CLASS/*.jpg; the table is docs/results/efficientnet_init/initial.csv. The conventions: relstab's, batch norm of
each version by its own statistics; the reference's three passes of all images, which must agree with it; and the same with the
dropout before the read-out, as in a network that nobody has set to evaluation mode.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

import relstab

# Of the reference implementation, for CIFAR-10.
MEAN, STD = (torch.tensor(values)[:, None, None] for values in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
OUT = Path(__file__).parent / "results/efficientnet_init/initial.csv"


def test_images(folder: Path, count: int) -> Tensor:
    """Random test images, normalised, [count, 3, 32, 32]."""
    files = sorted(folder.glob("test/*/*.jpg"))
    chosen = np.random.default_rng(0).permutation(len(files))[:count]
    pixels = np.stack([np.asarray(Image.open(files[index]).convert("RGB")) for index in chosen])
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


@torch.no_grad()
def three_passes(model: nn.Module, probes: relstab.Probes, device: str, dropout: bool) -> tuple[float, float, float]:
    """D, G and R of the output from one pass per version in training mode, where batch norm has the statistics of its batch."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train(dropout)
    clean, deformed, noisy = (model(part.to(device)).double() for part in (probes.images, probes.deformed, probes.noisy))
    spread = 2 * (clean.square().sum(1).mean() - clean.mean(0).square().sum())
    d, g = (float((part - clean).square().sum(1).mean() / spread) for part in (deformed, noisy))
    return d, g, d / g


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--probes", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--displacements", type=float, nargs="*", default=[0.531, 0.906, 1.84])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    images = test_images(arguments.images, arguments.probes)
    rows = []
    for displacement in arguments.displacements:
        for seed in range(arguments.seeds):
            probes = relstab.make_probes(images, displacement, 3, generator=torch.Generator().manual_seed(seed))
            torch.manual_seed(seed)
            model = relstab.build_model("efficientnet_b0", (3, 32, 32), 10).eval().to(arguments.device)
            output = relstab.measure_sensitivity(model, probes, batch_norm="per_version", layers=["output"]).iloc[-1]
            measured = {
                "relstab": (output["D"], output["G"], output["R"]),
                "three passes": three_passes(model, probes, arguments.device, dropout=False),
                "three passes, dropout on": three_passes(model, probes, arguments.device, dropout=True),
            }
            rows += [(displacement, seed, convention, *values) for convention, values in measured.items()]
    table = pd.DataFrame(rows, columns=["displacement", "seed", "convention", "D", "G", "R"])
    logarithms = table.assign(**np.log(table[["D", "G", "R"]])).groupby(["displacement", "convention"])[["D", "G", "R"]]
    print(np.exp(logarithms.mean()).join(logarithms.std().add_suffix("_logsd")).round(3).to_string())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
