"""Section ``figures``: how figures look."""

from typing import Annotated

from pydantic import Field

from relstab.config.section import Section, key


class Figures(Section):
    """How figures look."""

    dpi: Annotated[int, Field(ge=50, le=1200)] = key(200, "Dots per inch of the PNG files.")
    font_size: Annotated[float, Field(ge=4, le=30)] = key(8, "Size of the text, in points.")
    example: Annotated[int, Field(ge=0, le=10**9)] = key(0, "Which of the probes is shown as the sample image, from 0.")
