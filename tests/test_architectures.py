import pytest
import torch

import relstab
from relstab.architectures import ARCHITECTURES
from relstab.batch_norm import estimate_batch_statistics


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        # Published: 11.17 M, 9.23 M and 9.23 M for 32 x 32 colour images, LeNet-5 with 61,706 for 32 x 32 grey ones.
        ("resnet18", (3, 32, 32), 11_173_962),
        ("vgg11_bn", (3, 32, 32), 9_231_114),
        ("vgg11", (3, 32, 32), 9_225_610),
        ("lenet", (1, 32, 32), 61_706),
        ("fc2", (1, 28, 28), 785 * 512 + 513 * 512 + 513 * 10),
        ("fc4", (1, 28, 28), 785 * 512 + 3 * 513 * 512 + 513 * 10),
    ],
)
def test_parameter_counts_are_the_published_ones(name, shape, expected):
    assert parameters(relstab.build_model(name, shape, 10)) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("width", [0.125, 0.5])
def test_all_take_small_images(name, shape, width):
    model = relstab.build_model(name, shape, 7, width).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape == (2, 7)
    assert parameters(model) < parameters(relstab.build_model(name, shape, 7))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_convolutional_says_whether_there_are_filters(name):
    filters = [p for p in relstab.build_model(name, (1, 28, 28), 10, 0.1).parameters() if p.ndim == 4]
    assert bool(filters) == ARCHITECTURES[name].convolutional


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relstab.build_model("vgg11bn", (1, 28, 28), 10), r"'vgg11bn' is unknown \(nearest: 'vgg11_bn'\)"),
        (lambda: relstab.build_model("lenet", (1, 28, 28), 10, 0), "width is 0"),
        (lambda: relstab.build_model("lenet", (1, 28, 28), 1), "classes is 1"),
        (lambda: relstab.build_model("lenet", (1, 8, 8), 10), "LeNet wants at least 16 x 16"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_batch_statistics_are_those_of_the_images(generator):
    """One batch: running mean and variance are the (unbiased) ones of the activations, and modes and momenta come back."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Dropout()).double()
    model.eval()
    images = 5 * torch.randn(20, 1, 8, 8, dtype=torch.float64, generator=generator) + 2
    estimate_batch_statistics(model, images)
    activations = model[0](images).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, activations.mean(1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model[1].running_var, activations.var(1), rtol=1e-10, atol=0)
    assert [module.training for module in model] == [False, False, False]
    assert model[1].momentum == 0.1


def test_batch_statistics_average_over_batches_and_leave_out_a_small_rest(generator):
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).double()
    images = torch.randn(25, 2, dtype=torch.float64, generator=generator)
    estimate_batch_statistics(model, images, batch_size=10)
    torch.testing.assert_close(model[0].running_mean, images[:20].mean(0), rtol=1e-12, atol=0)
    expected = (images[:10].var(0) + images[10:20].var(0)) / 2
    torch.testing.assert_close(model[0].running_var, expected, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="1 image"):
        estimate_batch_statistics(model, images[:1])
