"""Scale-detection tasks, their splits, and the perturbations of their images, against plain loops and golden counts."""

import itertools
import math

import pytest
import torch

from relstab.scale_detection.perturbations import make_pair_probes, move_sites
from relstab.scale_detection.simple_cnn import SimpleDesign
from relstab.scale_detection.tasks import ScaleTask, split_pairs

SMALL = [
    *(ScaleTask("distance", 12, scale, gap) for scale, gap in ((6, 0), (4, 1), (4, 2), (3, 1.5))),
    ScaleTask("distance", 9, 4, 1),
    *(ScaleTask("block", 12, scale) for scale in (1, 3, 4, 6)),
    *(
        ScaleTask("distance", size, scale, gap, 2, norm, periodic)
        for size, scale, gap in ((6, 3, 0), (7, 3, 1), (8, 3, 2))
        for norm in ("L2", "Linf")
        for periodic in (False, True)
    ),
    *(ScaleTask("block", 6, scale, dimension=2) for scale in (2, 3)),
]


def named(task):
    distance = f"-gap{task.gap:g}-{task.norm}{'-periodic' * task.periodic}" if task.rule == "distance" else ""
    return f"{task.dimension}d-{task.rule}{distance}-{task.scale}of{task.size}"


def counts(pairs):
    return [int((pairs.labels == label).sum()) for label in (1, -1)]


def places(task, site):
    return (site,) if task.dimension == 1 else divmod(site, task.size)


def plain_label(task, first, second):
    """Label of one pair by the definition, in floating point: 0 where the gap leaves it out."""
    axes = list(zip(places(task, first), places(task, second), strict=True))
    if task.rule == "block":
        return 1 if all(a // task.scale == b // task.scale for a, b in axes) else -1
    apart = [abs(a - b) for a, b in axes]
    if task.periodic or task.dimension == 1:
        apart = [min(d, task.size - d) for d in apart]
    distance = math.hypot(*apart) if task.norm == "L2" else max(apart)
    gap = task.gap if task.dimension == 1 else task.gap / 2
    return 1 if distance < task.scale - gap else -1 if distance >= task.scale + gap else 0


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (ScaleTask("distance", 32, 8), [224, 272]),
        (ScaleTask("distance", 64, 16, 2), [832, 928]),
        (ScaleTask("block", 32, 8), [112, 384]),
        (ScaleTask("block", 64, 16), [480, 1536]),
    ],
)
def test_counts_on_the_ring_are_those_of_the_reference(task, expected):
    assert counts(task.enumerate()) == expected
    assert list(task.counts) == expected


def test_counts_on_an_image_are_those_of_the_reference():
    """The reference implementation never lights a pixel of the diagonal; all other pairs are the same."""
    task = ScaleTask("distance", 10, 5, 2, dimension=2)
    pairs = task.enumerate()
    assert counts(pairs) == list(task.counts) == [1534, 1970]
    row_column = task.coordinates(pairs.sites)
    off_diagonal = (row_column[..., 0] != row_column[..., 1]).all(1)
    assert counts(pairs[off_diagonal]) == [1233, 1611]


@pytest.mark.parametrize("task", SMALL, ids=named)
def test_enumeration_is_a_loop_over_all_pairs(task):
    labels = {pair: plain_label(task, *pair) for pair in itertools.combinations(range(task.sites), 2)}
    expected = {pair: label for pair, label in labels.items() if label}
    pairs = task.enumerate()
    assert list(map(tuple, pairs.sites.tolist())) == list(expected)
    assert pairs.labels.tolist() == list(expected.values())
    assert list(task.counts) == counts(pairs)


def test_a_large_image_is_enumerated_as_sites():
    """All 523,776 pairs of 32 pixels a side in 9 bytes each, and as many near and far as displacements.

    Each displacement is in (n - |dx|) (n - |dy|) places.
    """
    task = ScaleTask("distance", 32, 10, dimension=2)
    pairs = task.enumerate()
    assert len(pairs) == 32**2 * (32**2 - 1) // 2 == 523_776
    assert (pairs.sites.dtype, pairs.labels.dtype) == (torch.int32, torch.int8)
    assert tuple(pairs.sites.shape) == (523_776, 2)
    near = sum((32 - abs(dx)) * (32 - abs(dy)) for dx in range(-31, 32) for dy in range(-31, 32) if 0 < dx * dx + dy * dy < 10**2)
    assert counts(pairs) == list(task.counts) == [near // 2, 523_776 - near // 2]


def test_a_gap_leaves_out_the_pairs_that_are_hardest():
    """The paper's image, n = 28, xi = 14: at gap 0, as in the reference, all 306,936 pairs have a label; a gap of 2 takes 10%."""
    everything, gap = (sum(ScaleTask("distance", 28, 14, gap, dimension=2).counts) for gap in (0, 2))
    assert everything == 784 * 783 // 2
    assert gap / everything == pytest.approx(0.897, abs=5e-4)


def test_coordinates_and_sites_are_inverse():
    task = ScaleTask("block", 6, 3, dimension=2)
    sites = torch.arange(36)
    assert task.coordinates(sites).tolist() == [[row, column] for row in range(6) for column in range(6)]
    assert torch.equal(task.at(task.coordinates(sites)), sites)


@pytest.mark.parametrize(
    ("task", "shape", "height"),
    [
        (ScaleTask("distance", 32, 8), (1, 32), 4.0),
        (ScaleTask("block", 6, 3, dimension=2), (1, 6, 6), 18.0),
    ],
)
def test_images_have_two_lit_sites(task, shape, height):
    pairs = task.enumerate()
    images = task.images(pairs.sites)
    assert (tuple(images.shape), images.dtype) == ((len(pairs), *shape), torch.float32)
    assert task.height == height
    lit = torch.nonzero(images.flatten(1))
    assert torch.equal(lit[:, 1].reshape(-1, 2), pairs.sites.long())
    assert set(images.unique().tolist()) == {0.0, height}


@pytest.mark.parametrize("test", [None, 40])
def test_splits_are_balanced_and_share_no_pair(test):
    pairs = ScaleTask("block", 32, 8).enumerate()
    train, rest = split_pairs(pairs, 60, test)
    # 112 pairs are in the same block: 2 * 112 - 60 are left.
    assert counts(train) == [30, 30]
    assert counts(rest) == ([20, 20] if test else [82, 82])
    found = [set(map(tuple, part.sites.tolist())) for part in (train, rest)]
    assert len(found[0]) == 60
    assert len(found[1]) == (test or 164)
    assert not found[0] & found[1]
    labels = dict(zip(map(tuple, pairs.sites.tolist()), pairs.labels.tolist(), strict=True))
    for part in (train, rest):
        assert [labels[tuple(sites)] for sites in part.sites.tolist()] == part.labels.tolist()
        # In random order: not one label after the other.
        assert part.labels[: len(part) // 2].sum().abs() < len(part) // 2


def test_splits_follow_from_the_seed():
    pairs = ScaleTask("distance", 32, 8).enumerate()
    one, again, other = (split_pairs(pairs, 100, 50, seed) for seed in (3, 3, 4))
    for part in range(2):
        assert torch.equal(one[part].sites, again[part].sites)
        assert torch.equal(one[part].labels, again[part].labels)
        assert set(map(tuple, one[part].sites.tolist())) != set(map(tuple, other[part].sites.tolist()))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (31, None, "expected train to be an even number of pairs, at least 2, .* got 31"),
        (30, 7, "expected test to be an even number of pairs, at least 2, .* got 7"),
        (0, None, "expected train to be an even number of pairs, .* got 0"),
        (
            226,
            2,
            r"expected at most 224 pairs, in balanced classes \(112 of .*, got 226 training pairs and 2 test pairs",
        ),
        (224, None, "expected at most 224 pairs, .* got 224 training pairs and some test pairs"),
        (200, 26, "expected at most 224 pairs, .* got 200 training pairs and 26 test pairs"),
    ],
)
def test_splits_that_cannot_be_are_refused(train, test, message):
    with pytest.raises(ValueError, match=message):
        split_pairs(ScaleTask("block", 32, 8).enumerate(), train, test)


def moved(task, generator, times=20):
    """Sites of all pairs, many times over, and where they moved to."""
    sites = task.enumerate().sites.repeat(times, 1)
    return sites, move_sites(task, sites, generator)


MOVED = [
    ScaleTask("distance", 16, 5, 1),
    ScaleTask("block", 16, 4),
    ScaleTask("distance", 6, 3, 2, dimension=2),
    ScaleTask("distance", 6, 3, dimension=2, periodic=True),
    ScaleTask("block", 6, 3, dimension=2),
]


@pytest.mark.parametrize("task", MOVED, ids=named)
def test_each_lit_site_moves_by_one_or_stays_at_a_border(task, generator):
    """Borders are the ends of the ring or the image, and of the blocks where these are the task."""
    before, after = (task.coordinates(sites).long() for sites in moved(task, generator))
    steps = (after - before).abs().amax(-1)
    assert set(steps.unique().tolist()) == {0, 1}
    length = task.scale if task.rule == "block" else task.size
    at_border = ((before % length == 0) | (before % length == length - 1)).any(-1)
    assert (steps[~at_border] == 1).all()
    # At a border some moves are made and some are not, and none leads over it.
    assert 0 < steps[at_border].double().mean() < 1
    assert ((after >= 0) & (after < task.size)).all()
    assert torch.equal(before // length, after // length)


@pytest.mark.parametrize("task", MOVED, ids=named)
def test_directions_are_equally_likely(task, generator):
    """Among 10,000 moves of a site inside a block; tolerance: 4 standard errors sqrt(p (1 - p) / 10000) of the share."""
    middle = task.at(torch.full((10_000, 1, task.dimension), 1))
    steps = task.coordinates(move_sites(task, middle, generator)) - 1
    # Of a unit vector, a component rounds to 0 where its angle is within 30 degrees of the other axis.
    share = 1 / 2 if task.dimension == 1 else 1 / 3
    for axis in range(task.dimension):
        for step in (-1, 1):
            measured = float((steps[:, 0, axis] == step).double().mean())
            assert measured == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 10_000))
    along_an_axis = float((steps[:, 0] == 0).any(-1).double().mean())
    share = 2 / 3 if task.dimension == 2 else 0
    assert along_an_axis == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 10_000))


def test_noise_on_images_has_the_norm_of_the_move_image_by_image(generator):
    task = ScaleTask("distance", 8, 3, dimension=2)
    probes = make_pair_probes(task, task.enumerate().sites[:300], generator=generator)
    moved, added = ((version - probes.images).flatten(1).norm(dim=1) for version in (probes.deformed, probes.noisy))
    assert len(moved.unique()) > 1
    torch.testing.assert_close(added, moved, rtol=1e-5, atol=1e-4)


def test_two_sites_that_meet_are_one_lit_site():
    task = ScaleTask("distance", 16, 4)
    probes = make_pair_probes(task, torch.tensor([[6, 8]] * 200), generator=torch.Generator().manual_seed(0))
    found = {tuple(torch.nonzero(image)[:, 0].tolist()) for image in probes.deformed[:, 0]}
    assert found == {(5, 7), (5, 9), (7,), (7, 9)}
    assert probes.deformed.unique().tolist() == pytest.approx([0, task.height])


@pytest.mark.parametrize("task", [ScaleTask("distance", 64, 16, 2), ScaleTask("block", 10, 5, dimension=2)], ids=named)
def test_noise_has_the_norm_of_the_moves(task):
    """E|eta|^2 = E|tau x - x|^2, and half of it where negative entries are set to 0.

    Tolerances are 4 standard errors over n entries: of the mean of z^2 of a normal z, of variance 2, 4 sqrt(2 / n); of that of
    max(z, 0)^2, of mean 1/2 and variance 3/2 - 1/4, 4 sqrt(5 / n) of the mean; of that of z, 4 / sqrt(n).
    """
    sites = split_pairs(task.enumerate(), 400, 10)[0].sites
    gaussian, rectified = (
        make_pair_probes(task, sites, noise, torch.Generator().manual_seed(7)) for noise in ("gaussian", "rectified")
    )
    entries = gaussian.images.numel()
    wanted = float((gaussian.deformed - gaussian.images).double().square().mean())
    eta, positive = ((probes.noisy - probes.images).double() for probes in (gaussian, rectified))
    assert float(eta.square().mean()) == pytest.approx(wanted, rel=4 * math.sqrt(2 / entries))
    assert float(eta.mean()) == pytest.approx(0, abs=4 * math.sqrt(wanted / entries))
    assert float(positive.square().mean()) == pytest.approx(wanted / 2, rel=4 * math.sqrt(5 / entries))
    assert (rectified.noisy >= rectified.images).all()
    assert (gaussian.noisy < gaussian.images).any()
    # From one generator: the same images, moves and noise, but for what is set to 0.
    assert torch.equal(gaussian.images, task.images(sites))
    assert torch.equal(gaussian.deformed, rectified.deformed)
    # An entry of 50 has 4e-6 between neighbours in float32.
    torch.testing.assert_close(positive, eta.clamp(min=0), rtol=0, atol=2e-5)


def test_probes_follow_from_the_generator():
    task = ScaleTask("distance", 16, 4)
    sites = task.enumerate().sites
    one, again, other = (make_pair_probes(task, sites, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.noisy, again.noisy)
    assert torch.equal(one.deformed, again.deformed)
    assert not torch.equal(one.noisy, other.noisy)


def plain_least_error(task):
    """Over displacements, up to their sign and round the edges: the smaller share of the two labels of each, and half the sum."""
    seen = {}
    totals = {1: 0, -1: 0}
    for first, second in itertools.combinations(range(task.sites), 2):
        label = plain_label(task, first, second)
        if label:
            there = [(a - b) % task.size for a, b in zip(places(task, first), places(task, second), strict=True)]
            back = [-d % task.size for d in there]
            seen.setdefault(tuple(min(there, back)), {1: 0, -1: 0})[label] += 1
            totals[label] += 1
    return sum(min(found[label] / totals[label] for label in totals) for found in seen.values()) / 2


def test_no_function_of_the_displacement_is_wrong_on_distances_round_the_edges():
    for task in (ScaleTask("distance", 32, 8), ScaleTask("distance", 8, 3, 1, dimension=2, periodic=True)):
        assert task.least_error_of_translation_invariant == 0


@pytest.mark.parametrize("task", [ScaleTask("block", 12, 4), ScaleTask("block", 64, 16), *SMALL[-6:]], ids=named)
def test_least_error_of_translation_invariant_functions_is_a_loop_over_displacements(task):
    assert task.least_error_of_translation_invariant == pytest.approx(plain_least_error(task), rel=1e-12)


def test_least_error_on_blocks_of_half_a_ring_is_its_closed_form():
    """At distance d <= L / 2, L/2 - d of the pairs on each half are in one block and the rest of L (L / 2 at L / 2) are not."""
    size = 16
    half = size // 2
    same = [2 * (half - d) for d in range(1, half + 1)]
    different = [size // (2 if d == half else 1) - inside for d, inside in enumerate(same, start=1)]
    shares = zip(same, different, strict=True)
    expected = sum(min(s / sum(same), d / sum(different)) for s, d in shares) / 2
    assert ScaleTask("block", size, half).least_error_of_translation_invariant == pytest.approx(expected, rel=1e-12)
    assert 0 < expected < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 9}, "expected scale to be from 1 to 8, half the size of the ring, got 9"),
        ({"scale": 0}, "expected scale to be from 1 to 8, half the size of the ring, got 0"),
        ({"scale": 9, "dimension": 2}, "from 1 to 8, half the size of the image, got 9"),
        ({"gap": 4}, "expected gap to be at least 0 and below scale = 4, got 4"),
        ({"gap": -1}, "expected gap to be at least 0 and below scale = 4, got -1"),
        ({"gap": math.nan}, "expected gap to be at least 0 and below scale = 4, got nan"),
        ({"rule": "near"}, "expected rule to be 'distance' or 'block', got 'near'"),
        ({"norm": "L1"}, "expected norm to be 'L2' or 'Linf', got 'L1'"),
        ({"dimension": 3}, "expected dimension to be 1, a ring, or 2, an image, got 3"),
        ({"size": 1, "scale": 1}, "expected size to be at least 2 sites, got 1"),
        ({"rule": "block", "gap": 1}, "expected gap to be 0 with rule 'block', which has no distance to leave out, got 1"),
        ({"rule": "block", "scale": 5}, "expected scale to divide size = 16, so that blocks fill it, got 5"),
    ],
)
def test_tasks_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScaleTask(**({"rule": "distance", "size": 16, "scale": 4} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "expected channels to be at least 1, got 0"),
        ({"depth": 0}, "expected depth to be at least 1, got 0"),
        ({"filter_size": 0}, "expected filter_size to be at least 1, got 0"),
        ({"stride": -1}, "expected stride to be at least 1, got -1"),
        ({"stride": 4}, "expected stride to be at most filter_size = 3, got 4"),
        ({"activation": "swish"}, "expected activation to be one of 'relu', 'tanh', 'gelu', 'abs', got 'swish'"),
        ({"scaling": "standard"}, "expected scaling to be one of 'mean_field', 'ntk', got 'standard'"),
    ],
)
def test_designs_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimpleDesign(**({"depth": 2, "filter_size": 3, "stride": 1, "channels": 4} | options))


def test_noise_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="expected noise to be 'gaussian' or 'rectified', got 'uniform'"):
        make_pair_probes(MOVED[0], MOVED[0].enumerate().sites, "uniform")
