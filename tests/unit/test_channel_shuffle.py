import pytest
import torch
from torch import nn

import relstab


def weights(model):
    return [module.weight.detach() for module in model.modules() if isinstance(module, nn.Conv2d)]


def same_columns(shuffled, original):
    """Whether ``shuffled`` is ``original`` with its input channels in another order, and whether the order differs."""
    matches = (shuffled[:, :, None] == original[:, None]).flatten(3).all(3).all(0)
    order = matches.float().argmax(1)
    return bool(matches.any(1).all()) and len(set(order.tolist())) == len(order), not torch.equal(shuffled, original)


def test_input_channels_are_permuted_and_nothing_else_changes():
    model = relstab.build_model("vgg11_bn", (3, 32, 32), 10, 0.25)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    shuffled = relstab.shuffle_channels(model, seed=1)
    changed = []
    for original, new in zip(weights(model), weights(shuffled), strict=True):
        is_permutation, differs = same_columns(new, original)
        assert is_permutation
        changed.append(differs)
    assert all(changed)  # 3! = 6 orders of the colours: seed 1 takes another one
    for key, value in shuffled.state_dict().items():
        if value.ndim != 4:
            assert torch.equal(value, before[key]), key
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_each_layer_has_its_own_permutation():
    model = nn.Sequential(*[nn.Conv2d(16, 16, 1, bias=False) for _ in range(2)])
    for module in model:
        module.weight.data = torch.eye(16)[:, :, None, None]
    first, second = weights(relstab.shuffle_channels(model, seed=0))
    assert not torch.equal(first, second)


def test_a_shuffled_layer_reads_permuted_channels(generator):
    model = nn.Sequential(nn.Conv2d(5, 7, 3)).double()
    shuffled = relstab.shuffle_channels(model, seed=2)
    is_permutation, _ = same_columns(shuffled[0].weight.detach(), model[0].weight.detach())
    assert is_permutation
    order = [int((model[0].weight[:, c] == shuffled[0].weight[:, i]).flatten(1).all(1).all()) for i in range(5) for c in range(5)]
    permutation = torch.tensor(order).reshape(5, 5).double()
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64, generator=generator)
    # sum_i w[p(i)] x[i] is the original layer on the images whose channel p(i) is x[i].
    moved = torch.einsum("ic,nihw->nchw", permutation, x)
    torch.testing.assert_close(shuffled(x), model(moved), rtol=1e-12, atol=1e-12)


def test_both_permutes_filters_too():
    model = nn.Sequential(nn.Conv2d(6, 32, 3, bias=False))
    both = relstab.shuffle_channels(model, "both", seed=0)[0].weight
    only_input = relstab.shuffle_channels(model, "input", seed=0)[0].weight
    assert not torch.equal(both, only_input)
    original = model[0].weight.detach()
    torch.testing.assert_close(both.flatten(1).sum(1).sort().values, original.flatten(1).sum(1).sort().values)


def test_seeds_differ_and_repeat():
    model = relstab.build_model("lenet", (1, 28, 28), 10)
    first, again, other = (weights(relstab.shuffle_channels(model, seed=seed))[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_depthwise_filters_read_another_channel(generator):
    model = nn.Sequential(nn.Conv2d(8, 16, 3, groups=8)).double()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64, generator=generator)
    shuffled = relstab.shuffle_channels(model, seed=0)
    assert torch.equal(shuffled[0].weight, model[0].weight)
    out = shuffled(x)
    reads = []
    for channel in range(8):
        only = torch.zeros_like(x)
        only[:, channel] = x[:, channel]
        responds = (shuffled(only) - shuffled(torch.zeros_like(x))).abs().amax((0, 2, 3)) > 1e-9
        reads.append(responds.reshape(8, 2).all(1).nonzero().item())
    assert sorted(reads) == list(range(8))
    assert reads != list(range(8))
    order = torch.tensor(reads).argsort()  # group g reads channel order[g]
    torch.testing.assert_close(out, model(x[:, order]), rtol=1e-12, atol=1e-12)


def test_groups_keep_their_channels():
    model = nn.Sequential(nn.Conv2d(8, 6, 3, groups=2, bias=False))
    new, old = relstab.shuffle_channels(model, seed=0)[0].weight, model[0].weight
    for group in (slice(0, 3), slice(3, 6)):
        assert same_columns(new[group].detach(), old[group].detach())[0]


class ByKeyword(nn.Module):
    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution

    def forward(self, x):
        return self.convolution(input=x)


def test_a_depthwise_convolution_may_be_called_by_keyword(generator):
    model = nn.Conv2d(8, 8, 3, groups=8)
    x = torch.randn(2, 8, 6, 6, generator=generator)
    shuffled = relstab.shuffle_channels(ByKeyword(model), seed=0)(x)
    assert torch.equal(shuffled, relstab.shuffle_channels(model, seed=0)(x))
    assert not torch.equal(shuffled, model(x))


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_weights_that_are_computed_are_refused(norm):
    model = nn.Sequential(norm(nn.Conv2d(6, 4, 3)))
    with pytest.raises(ValueError, match="expected convolutions with plain weights, got '0'"):
        relstab.shuffle_channels(model)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="expected which to be 'input' or 'both', got 'output'"):
        relstab.shuffle_channels(nn.Identity(), "output")


def test_channels_of_a_pixelwise_network_are_all_that_a_shuffle_touches(generator):
    """With all input channels the same, no order of them can be told: the shuffled network is the same function."""
    model = nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU()).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=generator).expand(-1, 4, -1, -1)
    torch.testing.assert_close(relstab.shuffle_channels(model)(x), model(x), rtol=1e-12, atol=1e-12)
