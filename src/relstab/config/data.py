"""Section ``data``: which images."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from relstab.architectures.user_code import check_reference
from relstab.config.imagenet import IMAGENET
from relstab.config.section import AnyPath, AutoOneOrMore, Images, Name, Section, Whole, WrongKeysError, key, one_of, refuse
from relstab.data.datasets import DATASETS, IMAGE_FOLDER
from relstab.data.image_shape import Fit, Shape
from relstab.scale_detection.design import PAIRS


def _existing_code(reference: str) -> str:
    try:
        check_reference(reference)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    return reference


Reference = Annotated[str, AfterValidator(_existing_code)]
Mean = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]

# Sizes of the training set of the default run.
DIGITS = [100, 600, 4000]


class ImageFolder(Section):
    """For imagefolder, whose root holds train/CLASS/ and test/CLASS/, folders of images. When these images have changed, run
    snakemake --cores 8 --forcerun prepare_dataset to prepare the data set again.
    """

    channels: Whole = key(3, "1 (grey) or 3 (colour).")
    size: Whole | None = key(None, "n, rows and columns; null: those of the first image, if it is square.")
    fit: Fit = key(
        "exact",
        "exact: all images must have this size; crop: the shorter side is resized and the centre is cut out; "
        "stretch: the image is resized to n x n.",
    )
    resize_to: Whole | None = key(None, "Pixels of the shorter side before the centre is cut out; null: size.")
    problems: Literal["stop", "skip"] = key(
        "stop", "What happens when files or classes cannot be used: stop, or skip them. The log lists them."
    )

    @model_validator(mode="after")
    def _agree(self) -> "ImageFolder":
        if self.fit != "exact" and self.size is None:
            raise WrongKeysError({"size": f"expected a number of pixels beside fit: {self.fit}, got null"})
        # A size that is left out is that of the first image, of at least one pixel.
        Shape(self.channels, 1 if self.size is None else self.size, self.fit, self.resize_to)
        return self


class Data(Section):
    """The images that networks are trained and tested on."""

    name: Name = key(
        "mnist5k",
        f"{', '.join([*DATASETS, IMAGE_FOLDER])}, or, beside function, a name of your choice. mnist5k is 5,000 digits of "
        "MNIST that come with a package.",
    )
    label: str | None = key(None, "Its name in figures and the report; null: name, and for imagefolder 'images of' and the root.")
    function: Reference | None = key(None, "A user data set, path/to/file.py:function; see configs/own.yaml. null: none.")
    root: AnyPath | None = key(
        None,
        "Folder that holds the files of the data set, or into which they are downloaded; null: where the system has "
        "them, or data/.",
    )
    imagefolder: ImageFolder = Field(default_factory=ImageFolder)
    mean: Annotated[list[Mean], Field(min_length=1, max_length=3)] | None = key(
        None, "Mean per channel, of pixels from 0 to 1, for the normalisation; null: that of the training images."
    )
    std: Annotated[list[Deviation], Field(min_length=1, max_length=3)] | None = key(
        None, "Standard deviation per channel, for the normalisation; null: that of the training images."
    )
    train_images: AutoOneOrMore[Images] | None = key(
        "auto",
        "Training images to keep, the same number per class; null: all. A list, [64, 512, 4000], makes this size P an axis like "
        "noise: networks of each size, trained on the first P of one order of the images, and a figure of error and R against P. "
        f"auto: of mnist5k {DIGITS}, whose errors are 2 to 30%, and of any other data set all.",
    )
    test_images: Images | None = key(None, "Test images to keep, the same number per class; null: all.")
    noisy_test: bool = key(True, "Whether test images have the noise of the training images, for the error and for the probes.")

    @property
    def kept_training_images(self) -> int | list[int] | None:
        """``train_images``, with auto replaced by its meaning."""
        if self.train_images == "auto":
            return [*DIGITS] if self.name == "mnist5k" and self.function is None else None
        return self.train_images

    @property
    def training_sizes(self) -> list[int | None]:
        """Sizes of the training set where they are an axis; [None] where they are not."""
        kept = self.kept_training_images
        return [*kept] if isinstance(kept, list) else [None]

    @model_validator(mode="after")
    def _agree(self) -> "Data":
        known, wrong = [*DATASETS, IMAGE_FOLDER], {}
        if self.function is None and self.name not in known:
            wrong["name"] = one_of(self.name, known)
        if self.function is not None and self.name in (*known, PAIRS, IMAGENET):
            wrong["name"] = f"expected a name beside data.function that no other data set has, got {self.name!r}"
        if self.name == IMAGE_FOLDER and self.root is None:
            wrong["root"] = "expected the folder that holds train/ and test/ beside name: imagefolder, got null"
        if self.mean and self.std and len(self.mean) != len(self.std):
            wrong["std"] = f"expected as many numbers as in data.mean ({len(self.mean)}), got {len(self.std)}"
        refuse(wrong)
        return self
