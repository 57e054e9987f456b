"""Sections ``sensitivity`` and ``channel_shuffle``: what is measured of each network."""

from typing import Literal

from relstab.config.section import Count, Distinct, NoiseLevel, Section, Seeds, key


class Sensitivity(Section):
    """D, G and R of every layer."""

    weights: Literal["last", "best"] = key(
        "last", "Trained weights: those of the last epoch, or of the epoch of best test error."
    )
    batch_size: Count | None = key(
        None,
        "Images per batch, each in three versions; null: as many as keep the activations of the widest layer below "
        "48 MiB on a CPU, 256 MiB on a GPU.",
    )
    keep_activations: list[str] = key(
        [],
        'Layers whose representations are kept beside D, G and R, as shell patterns of their names: ["*"] (all), '
        '[output], ["features.*"]. They take much disk space.',
    )


class ChannelShuffle(Section):
    """R with the channels between convolutions shuffled."""

    count: Seeds = key(5, "Shuffles of each network.")
    which: Literal["input", "both"] = key(
        "input", "Channels to permute: those that a convolution reads (input), or also those that it writes (both)."
    )
    noise: Distinct[NoiseLevel] | None = key(
        None, "Noise levels whose networks are shuffled, a part of noise above; null: the lowest; []: no shuffles."
    )
