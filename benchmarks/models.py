# ruff: noqa: E501, SIM905
"""The layers of the paper in untrained networks of torchvision, timm and transformers: measured, and counted another way.

``python benchmarks/models.py`` writes ``docs/models.md``. Each network sees four images. The other count walks the graph that autograd
records: an activation's node counts if a convolution or a matrix product lies behind it, before the next activation; the gates are
taken off by the classes of their modules. It shares no code with relstab.
"""

import re
import time
import warnings
from pathlib import Path

import torch
from torch import nn

import relstab
from relstab.activations import tensors
from relstab.architectures.torchvision import torchvision

TORCHVISION = """alexnet vgg11 vgg16_bn resnet18 resnet34 resnet50 resnext50_32x4d wide_resnet50_2 googlenet inception_v3:96 densenet121
squeezenet1_0 squeezenet1_1 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5 mnasnet1_0 shufflenet_v2_x0_5 shufflenet_v2_x1_0
efficientnet_b0 efficientnet_v2_s regnet_y_400mf regnet_x_400mf convnext_tiny swin_t swin_v2_t vit_b_32:224""".split()
TIMM = """resnet18 resnet26d resnetv2_50 seresnet33ts legacy_seresnet18 ecaresnet26t skresnet18 resnest14d res2net50_14w_8s gernet_s repvgg_a0
mobileone_s0 efficientnet_b0 tf_efficientnet_cc_b0_4e efficientnet_lite0 tinynet_e mixnet_s ghostnet_100 mobilenetv3_small_050
mobilenetv4_conv_small hardcorenas_a lcnet_050 regnety_002 regnetx_002 densenet121 dla34 vovnet39a cspresnet50 darknet53 xception41
dm_nfnet_f0 nf_resnet26 convnext_atto convnextv2_atto convmixer_768_32 poolformer_s12 edgenext_xx_small fastvit_t8 efficientformerv2_s0
mobilevit_xxs mobilevitv2_050 efficientvit_b0 inception_v4:96 hrnet_w18_small rexnet_100 selecsls42
vit_tiny_patch16_224:224 deit_tiny_patch16_224:224 mixer_s32_224:224 resmlp_12_224:224 gmlp_ti16_224:224 cait_xxs24_224:224
xcit_nano_12_p16_224:224 eva02_tiny_patch14_224:224 swin_tiny_patch4_window7_224:224 coat_tiny:224 crossvit_tiny_240:240
pit_ti_224:224 levit_128s:224 tiny_vit_5m_224:224 visformer_tiny:224 convit_tiny:224""".split()
# Blocks whose activations make a factor, by the names of their classes.
GATES = re.compile(
    r"^(SqueezeExc\w*|SEModule|SEWithNorm|EffectiveSEModule|EcaModule|\w*SELayer|SelectiveKernelAttn|\w*SqueezeExcite\w*)$"
)
ACTIVATION = re.compile(
    r"^(Relu|Gelu|Silu|Hardswish|Hardtanh|Hardsigmoid|Sigmoid|Tanh|LeakyRelu|Elu|Mish|Softplus|Prelu\w*|Glu)Backward\d?$"
)
WEIGHTED = re.compile(r"^(Convolution\w*|Addmm|Mm|Bmm\w*|Linear)Backward\d?$")


def transformers_models():
    import transformers as hf

    vit = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    }
    yield "ViT", lambda: hf.ViTForImageClassification(hf.ViTConfig(**vit)), 32
    yield "DeiT", lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**vit)), 32
    yield "BEiT", lambda: hf.BeitForImageClassification(hf.BeitConfig(**vit)), 32
    yield "DINOv2", lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**vit)), 32
    yield "CLIP (vision)", lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**vit)), 32
    yield "SigLIP (vision)", lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**vit)), 32
    small = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
    yield "ConvNeXt", lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig(**small)), 64
    yield "ConvNeXtV2", lambda: hf.ConvNextV2ForImageClassification(hf.ConvNextV2Config(**small)), 64
    yield "ResNet", lambda: hf.ResNetForImageClassification(hf.ResNetConfig(embedding_size=8, layer_type="basic", **small)), 64
    yield "RegNet", lambda: hf.RegNetForImageClassification(hf.RegNetConfig(embedding_size=8, groups_width=8, **small)), 64
    yield "MobileViT", lambda: hf.MobileViTForImageClassification(hf.MobileViTConfig(image_size=64)), 64
    yield "PoolFormer", lambda: hf.PoolFormerForImageClassification(hf.PoolFormerConfig(hidden_sizes=[8, 16, 24, 32])), 64


def models():
    for entry in TORCHVISION:
        name, _, size = entry.partition(":")
        yield "torchvision", name, lambda name=name: torchvision.models.get_model(name, weights=None), int(size or 64)
    try:
        import timm

        for entry in TIMM:
            name, _, size = entry.partition(":")
            yield "timm", name, lambda name=name: timm.create_model(name), int(size or 64)
        for name, build, size in transformers_models():
            yield "transformers", name, build, size
    except ModuleNotFoundError as error:
        print(error)


def other_count(model, images):
    """Activations in the graph of autograd with weights behind them, less those that ran inside of gates."""
    gate_nodes = set()

    def mark(_module, args, output):
        """Activation nodes between a gate's input and its output."""
        start = {args[0].grad_fn}
        waiting = [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in start or node in gate_nodes:
                continue
            gate_nodes.add(node)
            waiting += [parent for parent, _ in node.next_functions]

    handles = [m.register_forward_hook(mark) for m in model.modules() if GATES.match(type(m).__name__)]
    output = model.eval()(images.requires_grad_())
    for handle in handles:
        handle.remove()

    def behind(node):
        """Whether weights lie behind an activation, before the next one."""
        waiting, seen = [parent for parent, _ in node.next_functions], set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if WEIGHTED.match(node.name()):
                return True
            if not ACTIVATION.match(node.name()):
                waiting += [parent for parent, _ in node.next_functions]
        return False

    waiting, seen, count = [tensor.grad_fn for tensor in tensors(output)], set(), 0
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        count += bool(ACTIVATION.match(node.name())) and node not in gate_nodes and behind(node)
        waiting += [parent for parent, _ in node.next_functions]
    return count


def row(source, name, build, size):
    torch.manual_seed(0)
    began = time.perf_counter()
    try:
        model = build().eval()
    except Exception as error:
        return f"| {source} | {name} | | | | cannot be built: {str(error).splitlines()[0][:90]} |"
    images = torch.nn.functional.interpolate(torch.randn(4, 3, 8, 8), size, mode="bicubic")
    try:
        other = other_count(model, images.clone())
    except Exception as error:
        other = f"{type(error).__name__}"
    try:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            relstab.estimate_batch_statistics(model, images)
        probes = relstab.make_probes(images, generator=torch.Generator().manual_seed(0))
        table = relstab.measure_sensitivity(model, probes, layers="paper", constant="nan")
        last = table.iloc[-1]
        result = f"D {last['D']:.3g}, G {last['G']:.3g}, R {last['R']:.3g}"
        layers = len(relstab.find_layers(model, images[:2]))
        measured = "" if len(table) - 2 == layers else f", {len(table) - 2} measured"
        try:
            blocks = len(relstab.find_layers(model, images[:2], "blocks"))
        except ValueError:
            blocks = ""
    except Exception as error:
        return f"| {source} | {name} | {size} | {other} | | refused: {' '.join(str(error).split())[:200]} |"
    print(name, layers, other, blocks, f"{time.perf_counter() - began:.1f} s", flush=True)
    return f"| {source} | {name} | {size} | {layers}{'' if layers == other else f' ({other})'}{measured} | {blocks} | {result} |"


def main():
    warnings.simplefilter("ignore")
    rows = [row(*entry) for entry in models()]
    agree = sum(" (" not in line.split("|")[4] and "refused" not in line for line in rows)
    text = f"""# Networks that were tried

{len(rows)} untrained networks, four images each (`python benchmarks/models.py`). *Layers* are those of the paper, activations that follow
weights, as `relstab.find_layers` finds them; in brackets a count made another way, where it differs: in the graph that autograd records,
without the gates (by their classes). Both agree for {agree}. *Blocks* are those of `layers="blocks"`. The last column is that of the
output; at initialization, with four images, its values say that the network is measured, and no more.

Where fewer are measured, the others work on windows of the images, whose first axis is not that of the images; a warning names them.
The counts differ where the graph of autograd also sees what is no image: MLPs of position biases (swin_v2_t), split attention
(resnest14d), and what chooses the weights of convolutions (tf_efficientnet_cc_b0_4e).

| library | network | pixels | layers | blocks | output |
|---|---|---|---|---|---|
"""
    Path(__file__).parents[1].joinpath("docs/models.md").write_text(text + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
