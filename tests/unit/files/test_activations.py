import h5py
import pytest
import torch
from torch import nn

import relstab


def random_probes(count=7, dtype=torch.float32):
    return relstab.make_probes(torch.randn(count, 3, 16, 16, dtype=dtype))


def network():
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten(), nn.Linear(576, 10))


def test_files_hold_what_the_layers_gave_in_the_order_of_the_probes(tmp_path):
    model, probes = network(), random_probes()
    kept = relstab.measure_sensitivity(model, probes, batch_size=3, keep_activations=tmp_path / "kept.h5")
    assert kept.equals(relstab.measure_sensitivity(model, probes, batch_size=3))
    with h5py.File(tmp_path / "kept.h5") as file, torch.no_grad():
        assert list(file) == sorted(["input", "0", "1", "1#2", "2", "4", "5", "output"])
        assert file["1#2"].attrs["layer"] == "1"
        assert file["1#2"].attrs["kind"] == "ReLU"
        assert "relstab_version" in file.attrs
        for version in ("images", "deformed", "noisy"):
            images = getattr(probes, version)
            first = model[0](images)
            expected = {"input": images, "0": first, "1": first.relu(), "output": model(images)}
            for layer, value in expected.items():
                data = file[layer][version]
                torch.testing.assert_close(torch.from_numpy(data[:]), value)
                assert data.compression == "gzip"
                assert data.chunks[1:] == tuple(value.shape[1:])


def test_layers_are_chosen_by_patterns(tmp_path):
    relstab.measure_sensitivity(network(), random_probes(), keep_activations=tmp_path / "kept.h5", keep_layers=["[02]", "out*"])
    with h5py.File(tmp_path / "kept.h5") as file:
        assert set(file) == {"0", "2", "output"}


def test_a_pattern_without_a_layer_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"names of measured layers, got 'features.\*', which matches none"):
        relstab.measure_sensitivity(
            network(), random_probes(), keep_activations=tmp_path / "kept.h5", keep_layers=["output", "features.*"]
        )
    assert not list(tmp_path.iterdir())


def test_a_measurement_that_fails_leaves_no_file(tmp_path):
    model = network()
    model[5].bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="layer '5'"):
        relstab.measure_sensitivity(model, random_probes(), keep_activations=tmp_path / "kept.h5")
    assert not list(tmp_path.iterdir())


def test_batches_that_come_one_by_one_are_kept_in_turn(tmp_path):
    probes = random_probes()
    relstab.measure_sensitivity(
        nn.Identity(), iter([probes[:4], probes[4:]]), keep_activations=tmp_path / "kept.h5", keep_layers=["input"]
    )
    with h5py.File(tmp_path / "kept.h5") as file:
        torch.testing.assert_close(torch.from_numpy(file["input/noisy"][:]), probes.noisy, rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "stored"), [(torch.bfloat16, "f4"), (torch.float16, "f4"), (torch.float64, "f8")])
def test_precision_is_kept_or_widened(tmp_path, dtype, stored):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 4)).to(dtype)
    relstab.measure_sensitivity(model, random_probes(), keep_activations=tmp_path / "kept.h5")
    with h5py.File(tmp_path / "kept.h5") as file:
        assert file["output/images"].dtype == stored
