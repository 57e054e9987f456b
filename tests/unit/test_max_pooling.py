import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import relstab
from relstab.max_pooling import separable_max_pooling


@settings(max_examples=80)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    ceil_mode=st.booleans(),
    bad=st.sampled_from([0.0, float("nan"), float("inf"), -float("inf")]),
    seed=st.integers(0, 1000),
)
def test_it_is_torchs_max_pooling_to_the_bit(kernel, stride, padding, height, width, ceil_mode, bad, seed):
    assume(padding <= kernel // 2 and min(height, width) + 2 * padding >= kernel)
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    images[1, 1, height // 2, width // 2] = bad
    model = nn.Sequential(nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode))
    expected = model(images)
    with separable_max_pooling(model):
        assert "forward" in model[0].__dict__
        pooled = model(images)
    assert torch.equal(pooled.nan_to_num(12345.0), expected.nan_to_num(12345.0))
    assert pooled.is_contiguous()


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2, return_indices=True),
        nn.MaxPool2d((2, 3)),
        nn.MaxPool2d(3, stride=(1, 2)),
        nn.MaxPool2d(2, dilation=2),
        nn.AvgPool2d(2),
    ],
)
def test_other_layers_stay_as_they_are(layer):
    with separable_max_pooling(nn.Sequential(layer)):
        assert "forward" not in layer.__dict__


def test_the_layers_are_torchs_again_whatever_happens():
    model = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1))
    with pytest.raises(ValueError, match="stop"), separable_max_pooling(model):
        raise ValueError("stop")
    assert not any("forward" in layer.__dict__ for layer in model)
    relstab.measure_sensitivity(model, relstab.make_probes(torch.randn(4, 3, 16, 16)))
    assert not any("forward" in layer.__dict__ for layer in model)


def test_images_in_channels_last_and_bfloat16_go_torchs_way():
    model = nn.Sequential(nn.MaxPool2d(2))
    images = torch.randn(2, 3, 8, 8)
    with separable_max_pooling(model):
        last = model(images.to(memory_format=torch.channels_last))
        rough = model(images.bfloat16())
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, nn.functional.max_pool2d(images, 2))
    assert torch.equal(rough, nn.functional.max_pool2d(images.bfloat16(), 2))
