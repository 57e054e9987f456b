import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from relstab.data.image_folder import MAX_PIXELS, ImageProblem, decode_images, list_folder, list_images, read_image
from relstab.data.image_shape import Shape
from relstab.files.dataset import read_dataset
from relstab.files.hdf5 import open_hdf5
from relstab.stages.datasets import prepare_dataset

from helpers import has_ended, wait_for

SIZE = 8
OPTIONS = {"channels": 3, "size": SIZE, "fit": "exact", "resize_to": None, "problems": "stop"}


def coloured(*colour, size=(SIZE, SIZE), mode="RGB"):
    return Image.new(mode, size, colour if len(colour) > 1 else colour[0])


def put(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Three classes, told apart by their blue; red and green say which image it is."""
    root = tmp_path / "images"
    for part, count in (("train", 7), ("test", 4)):
        for label, name in enumerate(("ant", "bee", "cow")):
            for number in range(count):
                put(coloured(10 * number, number + 200 * (part == "test"), 50 * label), root / part / name / f"{number}.png")
    return root


def prepared(tmp_path, root, name="data.h5", **options):
    given = {key: options.pop(key) for key in list(options) if key in OPTIONS}
    prepare_dataset(tmp_path / name, "imagefolder", str(root), imagefolder=OPTIONS | given, **options)
    return read_dataset(tmp_path / name)


def test_pixels_and_labels_are_those_of_the_files(folder, tmp_path):
    data = prepared(tmp_path, folder)
    for part, count in (("train", 7), ("test", 4)):
        images, labels = data.images[part], data.labels[part]
        assert images.shape == (3 * count, 3, SIZE, SIZE)
        assert (images == images[:, :, :1, :1]).all()
        red, green, blue = images[:, :, 0, 0].T
        assert blue.tolist() == (50 * labels).tolist()
        assert (green == red // 10 + 200 * (part == "test")).all()
        assert sorted(zip(labels.tolist(), red.tolist(), strict=True)) == [(c, 10 * n) for c in range(3) for n in range(count)]
        # Not class by class: probes are the first test images.
        assert labels.tolist() != sorted(labels.tolist())
    with open_hdf5(tmp_path / "data.h5") as file:
        assert [name.decode() for name in file["classes"][:]] == ["ant", "bee", "cow"]
        assert file["train/counts"][:].tolist() == [7, 7, 7]
        assert len(file["problems/path"]) == 0


def test_the_order_follows_the_seed_and_not_the_number_of_processes(folder, tmp_path):
    first = prepared(tmp_path, folder, "a.h5", workers=1)
    assert np.array_equal(first.images["train"], prepared(tmp_path, folder, "b.h5", workers=2).images["train"])
    assert not np.array_equal(first.images["train"], prepared(tmp_path, folder, "c.h5", seed=1).images["train"])


def test_small_batches_come_back_in_order(folder, monkeypatch):
    from relstab.data import image_folder

    monkeypatch.setattr(image_folder, "_BATCH_BYTES", 2 * 3 * SIZE * SIZE)
    files = list_folder(folder).files["train"]
    batches = list(decode_images(folder, files, Shape(3, SIZE), workers=2))
    assert [len(batch.images) for batch in batches] == [2] * 10 + [1]
    assert np.concatenate([batch.images for batch in batches])[:, 0, 0, 0].tolist() == [10 * n for n in range(7)] * 3


def test_fewer_images_are_balanced_and_only_these_are_decoded(folder, tmp_path):
    data = prepared(tmp_path, folder, train_images=6, test_images=3)
    assert np.bincount(data.labels["train"]).tolist() == [2, 2, 2]
    assert np.bincount(data.labels["test"]).tolist() == [1, 1, 1]
    for file in (folder / "train" / "ant").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"got 3 problems: .*is empty"):
        prepared(tmp_path, folder, "other.h5", train_images=4)


def test_mean_and_deviation_are_exact_or_given(folder, tmp_path):
    data = prepared(tmp_path, folder)
    pixels = data.images["train"].astype(np.float64) / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-6)
    assert data.std == pytest.approx(pixels.std((0, 2, 3)), rel=1e-6)
    given = prepared(tmp_path, folder, "given.h5", mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 1])
    assert given.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert given.std.tolist() == [0.5, 0.25, 1]
    with pytest.raises(ValueError, match=r"data.mean .*: expected one number for each of the 3 channels, got 1"):
        prepared(tmp_path, folder, "short.h5", mean=[0.1])


def noise(size, seed=0, mode="RGB"):
    depth = len(mode) if mode != "L" else 1
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], depth), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze() if depth == 1 else pixels, mode)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tif", ".PNG"])
def test_formats_without_loss_keep_every_pixel(tmp_path, suffix):
    image = noise((SIZE, SIZE))
    put(image, tmp_path / f"a{suffix}")
    assert np.array_equal(read_image(tmp_path / f"a{suffix}", 3, SIZE), np.asarray(image).transpose(2, 0, 1))


def test_grey_and_colour(tmp_path):
    put(noise((SIZE, SIZE), mode="L"), tmp_path / "grey.png")
    put(noise((SIZE, SIZE)), tmp_path / "colour.png")
    put(noise((SIZE, SIZE)).convert("P"), tmp_path / "palette.png")
    put(noise((SIZE, SIZE)).convert("CMYK"), tmp_path / "print.jpg")
    put(noise((SIZE, SIZE), mode="RGBA"), tmp_path / "transparent.png")
    grey = read_image(tmp_path / "grey.png", 3, SIZE)
    assert np.array_equal(grey, np.broadcast_to(read_image(tmp_path / "grey.png", 1, SIZE), (3, SIZE, SIZE)))
    red, green, blue = read_image(tmp_path / "colour.png", 3, SIZE).astype(float)
    # ITU-R 601: the luma of an image, rounded.
    assert np.abs(read_image(tmp_path / "colour.png", 1, SIZE)[0] - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 1
    for name in ("palette.png", "print.jpg", "transparent.png"):
        assert read_image(tmp_path / name, 3, SIZE).shape == (3, SIZE, SIZE)


def test_crop_resizes_the_shorter_side_and_keeps_the_centre(tmp_path):
    wide = Image.new("RGB", (40, 20), (0, 0, 0))
    wide.paste((255, 255, 255), (10, 0, 30, 20))
    put(wide, tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", 3, 20, "crop") == 255).all()
    put(wide.rotate(90, expand=True), tmp_path / "tall.png")
    assert (read_image(tmp_path / "tall.png", 3, 20, "crop") == 255).all()
    # Half the size: the borders of the square are mixed with black, its inside is not.
    half = read_image(tmp_path / "wide.png", 3, 8, "crop", resize_to=10)
    assert half.shape == (3, 8, 8)
    assert (half[:, :, 1:-1] == 255).all()
    assert (read_image(tmp_path / "wide.png", 3, 10, "stretch")[:, :, 0] == 0).all()


def test_resizing_is_that_of_torchvision(tmp_path):
    """Two routes to one result: the transforms that torchvision's networks are evaluated with."""
    from relstab.architectures.torchvision import torchvision

    for size in ((50, 37), (37, 50), (41, 41), (33, 64)):
        image = noise(size, seed=size[0])
        put(image, tmp_path / "a.png")
        transforms = torchvision.transforms.Compose(
            [torchvision.transforms.Resize(32), torchvision.transforms.CenterCrop(28), torchvision.transforms.PILToTensor()]
        )
        assert torch.equal(torch.tensor(read_image(tmp_path / "a.png", 3, 28, "crop", 32)), transforms(image))


def png(kind, bits, rows, width=SIZE, height=SIZE):
    """A PNG of these rows, each after its filter byte."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(width, height):
    """A PNG of a few bytes that says it is huge."""
    return png(2, 8, bytes(1000), width, height)


def encoded(image, form):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


BAD = {
    "bomb.png": (bomb(60000, 60000), "declares"),
    "small_bomb.png": (bomb(9000, 9000), r"declares (9000 x 9000|more) pixels"),
    "cut.jpg": (encoded(noise((SIZE, SIZE)), "JPEG")[:-150], "is truncated or damaged"),
    "cut.png": (encoded(noise((SIZE, SIZE)), "PNG")[:120], "is truncated or damaged"),
    "empty.png": (b"", "is empty"),
    "text.png": (b"not an image at all, and long enough to be looked at", "is not an image"),
    "named_wrongly.jpg": (encoded(noise((SIZE, SIZE)), "PNG"), "holds PNG, expected JPEG by its suffix"),
    "notes.txt": (b"remember the milk", "has the suffix '.txt', expected one of .jpg"),
    "deep.png": (encoded(Image.fromarray(np.full((SIZE, SIZE), 40000, np.uint16)), "PNG"), "more than 8 bits per channel"),
    "large.png": (encoded(noise((SIZE + 1, SIZE)), "PNG"), "has 9 x 8 pixels, expected 8 x 8"),
    # As a download that was given its size at once, and cut: the rest is zeros.
    "zeros.png": (encoded(noise((SIZE, SIZE)), "PNG")[:150] + bytes(100), "is truncated or damaged"),
    # Colour with 16 bits, which Pillow opens as if it had 8.
    "deep_colour.png": (png(2, 16, bytes(8 * (1 + 6 * 8))), "more than 8 bits per channel"),
    "deep_colour.ppm": (b"P6 8 8 65535\n" + bytes(8 * 8 * 6), "more than 8 bits per channel"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_named_and_left_out(folder, tmp_path, capsys, name):
    content, reason = BAD[name]
    (folder / "train" / "bee" / name).write_bytes(content)
    with pytest.raises(ImageProblem, match=reason):
        read_image(folder / "train" / "bee" / name, 3, SIZE)
    with pytest.raises(ValueError, match=rf"got 1 problems: train/bee/{name} .*({reason}).*data.imagefolder.problems"):
        prepared(tmp_path, folder)
    assert not (tmp_path / "data.h5").exists()
    data = prepared(tmp_path, folder, problems="skip")
    assert np.bincount(data.labels["train"]).tolist() == [7, 7, 7]
    assert set(data.images["train"][:, 2, 0, 0].tolist()) == {0, 50, 100}
    with open_hdf5(tmp_path / "data.h5") as file:
        assert [path.decode() for path in file["problems/path"][:]] == [f"train/bee/{name}"]
    assert f"train/bee/{name}" in capsys.readouterr().out


def test_a_bomb_is_not_decoded(tmp_path):
    """Refused by its header: decoding 60,000 x 60,000 pixels would take 10 GB."""
    import resource

    (tmp_path / "bomb.png").write_bytes(bomb(60000, 60000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageProblem):
        read_image(tmp_path / "bomb.png", 3, SIZE, "stretch")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert MAX_PIXELS < 60000**2


def test_a_thin_image_cannot_become_a_bomb_by_resizing(tmp_path):
    put(Image.new("L", (20000, 1)), tmp_path / "thin.png")
    with pytest.raises(ImageProblem, match="too long and thin"):
        read_image(tmp_path / "thin.png", 1, 64, "crop")


def test_all_problems_are_listed_before_it_stops(folder, tmp_path, capsys):
    for name, (content, _) in BAD.items():
        (folder / "test" / "cow" / name).write_bytes(content)
    (folder / "train" / "loose.png").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"got {len(BAD) + 1} problems: .*; and {len(BAD) - 2} more, listed in the log"):
        prepared(tmp_path, folder)
    out = capsys.readouterr().out
    for name in BAD:
        assert f"test/cow/{name} " in out
    assert "train/loose.png is outside a class" in out


def test_classes_that_differ_or_are_empty(folder, tmp_path):
    put(coloured(1, 2, 3), folder / "train" / "dog" / "0.png")
    (folder / "train" / "eel").mkdir()
    (folder / "test" / "eel").mkdir()
    listing = list_folder(folder)
    assert listing.classes == ["ant", "bee", "cow"]
    assert [str(problem) for problem in listing.problems] == [
        "test/dog does not exist, but the other part has a class dog",
        "train/eel is empty",
        "test/eel is empty",
    ]
    with pytest.raises(ValueError, match=r"got 3 problems: test/dog does not exist"):
        prepared(tmp_path, folder)
    assert prepared(tmp_path, folder, problems="skip").labels["train"].max() == 2


def test_a_class_of_which_no_image_can_be_used_stops_it(folder, tmp_path):
    for file in (folder / "test" / "bee").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"test/bee of .* has no image that can be used .*delete the class in both parts"):
        prepared(tmp_path, folder, problems="skip")


def test_one_class_is_no_data_set(tmp_path):
    for part in ("train", "test"):
        put(coloured(1, 2, 3), tmp_path / part / "only" / "0.png")
    with pytest.raises(ValueError, match=r"data.root\): expected 2 or more classes with files in train/ and test/, got 1"):
        prepared(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere/train is not a folder: .*data.root"):
        prepared(tmp_path, tmp_path / "nowhere")


def test_without_a_size_it_is_that_of_the_first_image(folder, tmp_path):
    (folder / "train" / "ant" / "#first.png").write_bytes(bomb(60000, 60000))
    (folder / "train" / "ant" / "#second.txt").write_bytes(encoded(noise((5, 5)), "PNG"))
    assert prepared(tmp_path, folder, size=None, problems="skip").image_shape == (3, SIZE, SIZE)
    (folder / "train" / "ant" / "#first.png").unlink()
    (folder / "train" / "ant" / "#second.txt").unlink()
    for file in list_images(folder):
        put(noise((4, 5)), file)
    with pytest.raises(ValueError, match=r"ant/0.png, the first image: .* got 4 x 5 pixels: set data.imagefolder.size"):
        prepared(tmp_path, folder, size=None)
    for file in list_images(folder):
        file.write_bytes(b"none")
    with pytest.raises(ValueError, match=r"expected images in train/, got none that can be decoded"):
        prepared(tmp_path, folder, size=None)


def test_links_are_followed_and_circles_are_not(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (folder / "train" / "ant").rename(elsewhere)
    (folder / "train" / "ant").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(elsewhere)
    for hidden in (elsewhere, folder / "train"):
        (hidden / ".hidden").write_bytes(b"")
    nested = elsewhere / "nested"
    nested.mkdir()
    (elsewhere / "0.png").rename(nested / "0.png")
    listing = list_folder(folder)
    assert len(listing.files["train"]) == 21
    assert listing.problems == []


@pytest.mark.parametrize("kind", ["pipe", "link to itself", "class that is a link to itself", "folder that cannot be listed"])
def test_what_is_no_file_is_listed_and_nothing_waits(folder, tmp_path, monkeypatch, kind):
    place = folder / "train" / "bee"
    reason = {
        "pipe": r"train/bee/x.png is not a regular file",
        "link to itself": r"train/bee/x.png cannot be read \(Too many levels",
        "class that is a link to itself": r"train/x is outside a class",
        "folder that cannot be listed": r"train/bee/x cannot be listed \(Permission denied\)",
    }[kind]
    if kind == "pipe":
        os.mkfifo(place / "x.png")
    elif kind == "folder that cannot be listed":
        (place / "x").mkdir()
        scandir = os.scandir

        def refuse(path):  # root may list everything
            if str(path).endswith("bee/x"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
    else:
        path = place / "x.png" if kind == "link to itself" else folder / "train" / "x"
        path.symlink_to(path)
    with pytest.raises(ValueError, match=rf"got 1 problems: {reason}"):
        prepared(tmp_path, folder)
    assert len(prepared(tmp_path, folder, problems="skip").labels["train"]) == 21


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_an_error_of_the_disk_is_no_problem_of_the_image(folder, tmp_path, monkeypatch, error):
    """Left out, such an image would be missing by chance: another run would have another data set."""

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(type(error)):
        prepared(tmp_path, folder, problems="skip")


def test_no_fewer_images_than_classes(folder, tmp_path):
    with pytest.raises(ValueError, match=r"data.test_images .*: expected at least one image for each of the 3 classes .*, got 2"):
        prepared(tmp_path, folder, test_images=2)


def test_few_large_files_are_shared_among_the_processes(folder):
    files = list_folder(folder).files["train"]
    assert len(list(decode_images(folder, files, Shape(3, SIZE), workers=1))) == 7


@pytest.mark.slow
@pytest.mark.parametrize("files", [21, 1])
def test_the_processes_that_decode_end_with_a_killed_parent(folder, files):
    """With one file, processes that never got one as well."""
    code = (
        "import time; from relstab.data.image_folder import decode_images, list_folder, Shape\n"
        f"files = list_folder({str(folder)!r}).files['train'][:{files}]\n"
        f"list(decode_images({str(folder)!r}, files, Shape(3, {SIZE}), workers=2))\n"
        "print('done', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if line == "done\n":
            break
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # one of them keeps track of what they share
    process.kill()
    process.wait()
    wait_for(lambda: all(map(has_ended, children)))


def test_names_that_are_no_text_are_listed(folder, tmp_path):
    bad = os.fsencode(folder / "train" / "ant") + b"/\xff\xfe.png"
    with open(bad, "wb") as file:
        file.write(b"nothing")
    prepared(tmp_path, folder, problems="skip")
    with open_hdf5(tmp_path / "data.h5") as file:
        assert file["problems/path"][0].decode() == "train/ant/\\udcff\\udcfe.png"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((2, 8), r"channels: expected 1 .*, got 2"),
        ((3, 0), "size: .*, got 0"),
        ((3, 8, "squeeze"), "fit: .*, got 'squeeze'"),
        ((3, 8, "crop", 7), "at least size = 8.*, got 7"),
        ((3, 8, "stretch", 9), "with fit 'crop', got 9 with fit 'stretch'"),
    ],
)
def test_shapes_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        Shape(*given)
