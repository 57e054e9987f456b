"""The layers of the paper among the rows of a table: the representation after the activation of each convolution (Eq. 2)."""

import pandas as pd

__all__ = ["paper_layers"]

_WEIGHTED = {"Conv1d", "Conv2d", "Conv3d", "Linear", "ScaledLinear"}
_ACTIVATIONS = {"ReLU", "Tanh", "GELU", "SiLU", "LeakyReLU", "ELU", "Sigmoid", "Hardswish", "ReLU6", "Abs"}


def paper_layers(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Rows of the input (k = 0), of every activation that follows a convolution or linear layer, and of the output (k = K).

    Where two convolutions meet in one activation, as the two branches of a residual block do, it is one layer. The gates of
    squeeze and excitation (torchvision's ``SqueezeExcitation``) are not layers: they scale channels.

    Args:
        table: rows of :func:`relstab.measure_sensitivity`, of one or more networks.
        by: columns that identify a network (and a state, a shuffle).

    Returns:
        The chosen rows with a column ``k``, the number of the layer, and ``depth`` replaced by k / K.
    """

    def choose(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.sort_values("index")
        blocks = rows["layer"].str.rpartition(".")[0]
        rows = rows[~blocks.isin(set(blocks[rows["layer"].str.endswith(".scale_activation")]))]
        weighted = rows["kind"].isin(_WEIGHTED)
        active = rows["kind"].isin(_ACTIVATIONS)
        # A new stretch begins after each activation. The activation at its end counts if a weighted layer ran within the stretch.
        stretch = active.shift(fill_value=False).cumsum()
        chosen = (active & weighted.groupby(stretch).transform("any")) | rows["layer"].isin(["input", "output"])
        rows = rows[chosen].copy()
        rows["k"] = range(len(rows))
        rows["depth"] = rows["k"] / max(len(rows) - 1, 1)
        return rows

    if table.empty:
        return table.assign(k=pd.Series(dtype=int))
    return pd.concat([choose(rows) for _, rows in table.groupby(by, sort=False)], ignore_index=True)
