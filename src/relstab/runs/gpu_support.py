"""Whether torch can use the GPU that is there, and what mends it: the driver, and the CUDA and the cards of torch's wheel."""

import os
import re
from pathlib import Path

import torch

__all__ = ["missing_code", "unusable_gpu"]

# Oldest driver of each version of CUDA (NVIDIA, CUDA Compatibility, "Minor Version Compatibility").
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
_CUDA_13 = "pip install --force-reinstall torch torchvision"
# The last wheels with CUDA 12, and with code for cards before Turing, are those of torch 2.14.
_CUDA_12 = "pip install --force-reinstall 'torch<2.15' torchvision --index-url https://download.pytorch.org/whl/cu126"


def _driver() -> str | None:
    """Version of NVIDIA's driver; None where none is loaded."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module(?: +for \S+)? +([0-9][0-9.]+)", text)
    return found[1] if found else None


def _gpu_there(driver: str | None) -> str | None:
    """Who has a GPU, this job or this machine, whether or not torch can use it; None where there is none."""
    visible = os.getenv("CUDA_VISIBLE_DEVICES")
    if visible is not None and not re.match(r"\d|GPU-|MIG-", visible):
        return None  # hidden: "", "-1", "NoDevFiles"
    given = [f"{name}={os.environ[name]}" for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS") if os.getenv(name)]
    if given:
        return f"this job ({', '.join(given)})"
    return "this machine" if driver and any(Path("/dev").glob("nvidia[0-9]*")) else None


def unusable_gpu() -> str | None:
    """Why torch cannot use the GPU of this job or machine, and what mends it; None where it can, or where there is none."""
    if torch.cuda.is_available():
        usable = [missing_code(index) is None for index in range(torch.cuda.device_count())]
        return None if any(usable) else missing_code(0)
    driver = _driver()
    owner = _gpu_there(driver)
    if owner is None:
        return None
    cuda = torch.version.cuda
    major = int(driver.partition(".")[0]) if driver else None
    wheel = _CUDA_12 if major is not None and major < _OLDEST_DRIVER[13] else _CUDA_13
    version = f"driver {driver or 'unknown'}, torch {torch.__version__}"
    if cuda is None:
        return f"{owner} has a GPU, and torch is built without CUDA ({version}): {wheel}"
    oldest = _OLDEST_DRIVER.get(int(cuda.partition(".")[0]), 0)
    if major is not None and major < oldest:
        return f"{owner} has a GPU, whose driver is too old for CUDA {cuda}, which needs {oldest} ({version}): {wheel}"
    return f"{owner} has a GPU, and torch with CUDA {cuda} finds none ({version}): see whether nvidia-smi lists it"


def missing_code(index: int) -> str | None:
    """Why torch has no code for a card, and what mends it; None where it has.

    Code "sm_80" runs on the cards of 8.0 to 8.9, "sm_90a" on those of 9.0 alone; "compute_120" is compiled for any later card.
    """
    capability = torch.cuda.get_device_capability(index)
    compiled = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name) for name in torch.cuda.get_arch_list()]
    codes = [(code[1], (int(code[2]), int(code[3])), code[4]) for code in compiled if code]
    for kind, lowest, suffix in codes:
        if capability == lowest or (suffix != "a" and capability > lowest and (kind == "compute" or capability[0] == lowest[0])):
            return None
    if not codes:
        return None
    older = capability < min(lowest for _, lowest, _ in codes)
    mend = _CUDA_12 if older else "pip install --upgrade torch torchvision"
    return (
        f"{torch.cuda.get_device_name(index)} has compute capability {capability[0]}.{capability[1]}, for which torch "
        f"{torch.__version__} with CUDA {torch.version.cuda} has no code (it has {', '.join(torch.cuda.get_arch_list())}): {mend}"
    )
