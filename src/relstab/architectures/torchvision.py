"""torchvision, importable beside a CPU build of torch as well.

torchvision's usual wheel is built for the CUDA build of torch; beside the CPU build its compiled operators do not load, and its
import stops at registering a Python kernel for operators that are not declared. Declaring their schemas is all that is missing:
models, data sets and transforms do not use them.
"""

import torch

__all__ = ["torchvision"]

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    import sys

    for _name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[_name]
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for _schema in _SCHEMAS.values():
        _library.define(_schema)
    import torchvision
