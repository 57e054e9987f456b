"""Section ``imagenet``: pretrained networks of torchvision and timm."""

import importlib.util
from typing import Annotated

from pydantic import Field, model_validator

from relstab.architectures import TIMM
from relstab.config.section import AnyPath, AtLeastTwo, Count, Distinct, NoBraces, Section, key, one_of, refuse
from relstab.files.network import IMAGENET

__all__ = ["IMAGENET", "ImageNet"]

# In timm, a point stands before the tag of the weights: timm:convnext_atto.d2_in1k.
PublishedName = Annotated[str, Field(pattern=rf"^(\w+|{TIMM}\w+(\.\w+)?)$")]


class ImageNet(Section):
    """Networks that torchvision or timm has trained on ImageNet: their filters beside those at initialization and, where there
    is a folder of images, their sensitivities, with and without shuffled channels (channel_shuffle.count shuffles; images are
    deformed as probes tells).
    """

    networks: Distinct[PublishedName] = key(
        [],
        "Names of torchvision's classification networks, [vgg11_bn, resnet18] and 78 more, and of timm's, [timm:convnext_atto, "
        "timm:resnet18.a1_in1k]; []: none.",
    )
    weights: dict[str, NoBraces] = key(
        {},
        "By network: a local file of its weights (.pth or .safetensors, a state dict), as in {resnet18: "
        "weights/resnet18-f37072fd.pth}. Torchvision's default weights of the others are read from the folder of torch's hub "
        "(TORCH_HOME), timm's from that of Hugging Face's (HF_HOME); those that are not there are downloaded into it.",
    )
    images: AnyPath | None = key(
        None,
        "Folder of validation images, with or without a folder per class; null: filters only. A later change of the "
        "images in it is not noticed.",
    )
    probes: AtLeastTwo = key(100, "P, images that are perturbed, chosen at random.")
    resize: Count = key(256, "Pixels of the shorter side, to which an image is resized first.")
    crop: Count = key(224, "Pixels of the square that is cut from its centre; at most resize.")

    @model_validator(mode="after")
    def _agree(self) -> "ImageNet":
        wrong = {f"weights.{name}": one_of(name, self.networks) for name in self.weights if name not in self.networks}
        if importlib.util.find_spec("timm") is None:
            wrong |= {
                f"networks.{index}": f"expected timm, which is not installed, for {name!r}: pip install timm"
                for index, name in enumerate(self.networks)
                if name.startswith(TIMM)
            }
        if self.crop > self.resize:
            wrong["crop"] = f"expected at most imagenet.resize ({self.resize}), got {self.crop}"
        refuse(wrong)
        return self
