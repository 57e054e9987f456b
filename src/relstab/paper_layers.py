"""The layers of the paper among the rows of a table: the representation after the activation of each convolution (Eq. 2)."""

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "ACTIVATION_FUNCTIONS", "WEIGHTED", "paper_layers"]

WEIGHTED = {
    "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Linear", "Bilinear", "ScaledLinear",
}  # fmt: skip
ACTIVATION_FUNCTIONS = {
    "relu", "relu6", "tanh", "gelu", "silu", "leaky_relu", "elu", "celu", "selu", "sigmoid", "hardswish", "hardtanh",
    "hardsigmoid", "mish", "softplus", "softsign", "prelu", "rrelu", "threshold", "glu", "logsigmoid",
}  # fmt: skip
ACTIVATIONS = {
    "ReLU", "Tanh", "GELU", "SiLU", "LeakyReLU", "ELU", "CELU", "SELU", "Sigmoid", "Hardswish", "ReLU6", "Hardtanh", "Abs",
    "Hardsigmoid", "Mish", "Softplus", "Softsign", "PReLU", "RReLU", "Threshold", "GLU", "LogSigmoid",
}  # fmt: skip
# The last activation of squeeze and excitation, in torchvision and in timm.
_GATE = re.compile(r"(?:^|\.)(?:scale_activation|gate)$")


def paper_layers(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Rows of the input (k = 0), of every activation that follows a convolution or linear layer, and of the output (k = K).

    Where two convolutions meet in one activation, as the two branches of a residual block do, it is one layer. The gates of
    squeeze and excitation are not layers: they scale channels. A table that :func:`relstab.measure_sensitivity` just made knows
    its layers, see :func:`relstab.find_layers`. In a table from a file they are found by their kinds and their order.

    Args:
        table: rows of :func:`relstab.measure_sensitivity`, of one or more networks.
        by: columns that tell networks (and states, shuffles) apart.

    Returns:
        The chosen rows with a column ``k``, the number of the layer, and ``depth`` replaced by k / K.

    Raises:
        ValueError: a network has weighted layers and no activation after them.
    """
    found = table.attrs.get("paper_layers")

    def activations(rows: pd.DataFrame) -> "pd.Series[bool]":
        if found:
            calls = zip(rows["layer"], rows.groupby("layer").cumcount() + 1, strict=True)
            known = {tuple(layer) for layer in found}
            return pd.Series([call in known for call in calls], rows.index)
        blocks = rows["layer"].str.rpartition(".")[0]
        gates = blocks.isin(set(blocks[rows["layer"].str.contains(_GATE)])) & (blocks != "")
        weighted = rows["kind"].isin(WEIGHTED) & ~gates
        active = rows["kind"].isin(ACTIVATIONS | ACTIVATION_FUNCTIONS) & ~gates
        # A new stretch begins after each activation. The activation at its end counts if a weighted layer ran within the stretch.
        stretch = active.shift(fill_value=False).cumsum()
        chosen = active & weighted.groupby(stretch).transform("any")
        if weighted.any() and not chosen.any():
            raise ValueError(
                f"expected activations after the {weighted.sum()} weighted layers of the table, "
                f"{rows['layer'][weighted].iloc[0]!r} the first, found none: measure all layers (layers=None), "
                f"and no scripted or traced network"
            )
        return chosen

    masks: dict[tuple[str, ...], NDArray[np.bool_]] = {}  # networks of one architecture have the same layers

    def choose(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.sort_values("index")
        names = (*rows["layer"], *rows["kind"])
        if names not in masks:
            ends = rows["kind"].isin(["input", "output"]) & rows["layer"].isin(["input", "output"])
            masks[names] = (activations(rows) | ends).to_numpy()
        rows = rows[masks[names]].copy()
        rows["k"] = range(len(rows))
        rows["depth"] = rows["k"] / max(len(rows) - 1, 1)
        return rows

    if table.empty:
        return table.assign(k=pd.Series(dtype=int))
    return pd.concat([choose(rows) for _, rows in table.groupby(by, sort=False)], ignore_index=True)
