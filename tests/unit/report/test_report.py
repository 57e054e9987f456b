"""The report: what its first page says, and what a browser makes of it."""

import json
import re
import shutil
import subprocess

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from relstab.config import load_config
from relstab.figures import FIGURES
from relstab.figures.style import mark
from relstab.report import render_report
from relstab.report.words import CLAIM_FIGURES, correlation_sentences, figure_title, run_sentences, verdict_sentence
from relstab.tables.networks import correlation_table

from helpers import synthetic

CONFIG = load_config({}, "config.yaml").model_dump()
FIGURE_NAMES = ["fig03_shuffled_layers", "fig01_relative_sensitivity", "over_training"]


@pytest.fixture(scope="module")
def tables():
    networks, sensitivity, _ = synthetic(networks=5, noise=(0.0, 3.0))
    networks.loc[0, ["test_error", "learned"]] = [0.9, False]
    rows = [
        ("1", "rho(eps, R) > 0 </script>", 0.91234, 0.5, 0.99, "supported", 10),
        ("2", "rho(eps, G) < 0", -0.2, -0.3, -0.1, "not supported", 10),
        ("3", "with noise", None, None, None, "undecided", 0),
        ("10", "D_k falls", None, None, None, "undecided", 10),
        ("10", "D_k falls", -0.5, None, None, "supported", 5),
    ]
    claims = pd.DataFrame(rows, columns=["claim", "statement", "statistic", "low", "high", "verdict", "networks"])
    correlation = correlation_table(networks, sensitivity, resamples=50)
    return {"networks": networks, "sensitivity": sensitivity, "correlation": correlation, "claims": claims}


@pytest.fixture(scope="module")
def page(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for name in FIGURE_NAMES:
        plt.figure(figsize=(1, 1)).savefig(folder / f"{name}.png")
        plt.close()
    (folder / "train/mnist5k").mkdir(parents=True)
    for seed, seconds in enumerate((60.0, 120.0)):
        (folder / f"train/mnist5k/seed{seed}.tsv").write_text(f"s\tmax_rss\n{seconds}\t{100 + seed}\n")
    text = render_report(tables, sorted(folder.glob("*.png")), CONFIG, folder, {"torch": "2"})
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder / "report.html"


def test_sentences_say_what_was_run_and_found(tables):
    first, second, third = run_sentences(CONFIG, tables["networks"])
    assert "10 networks" in first
    assert "1 architecture (LeNet) at 2 noise levels (sigma = 0 and 3), from 5 seeds" in first
    assert second.startswith("9 of them learned")
    assert f"P = {CONFIG['probes']['images']:,} test images" in third
    changed = {
        "data": CONFIG["data"] | {"name": "imagefolder", "root": "my/images"},
        "sensitivity": CONFIG["sensitivity"] | {"weights": "best"},
    }
    networks = tables["networks"].assign(dataset="imagefolder", architecture="vgg11_bn")
    first, second, _ = run_sentences(CONFIG | changed, networks)
    assert "on images of my/images: " in first
    assert "Not of full width, with the factor of their channels: VGG11bn (0.25)." in first
    assert "the epoch with the lowest test error" in second
    assert verdict_sentence(tables["claims"]) == (
        "Of 4 claims, this run finds 1 supported (1), 1 not supported (2), 1 undecided (10) and 1 with no networks (3)."
    )
    sentences = correlation_sentences(tables["correlation"], CONFIG["data"] | {"label": "digits"})
    assert sentences[0].startswith("On digits at noise 0, over 4 networks: rho(eps, D) = ")
    assert [re.search(r"at noise (\S+), over (\d+) networks", text).groups() for text in sentences] == [("0", "4"), ("3", "5")]


def test_a_run_in_which_nothing_learned_says_so(tables):
    networks = tables["networks"].assign(learned=False)
    assert "None of them learned" in " ".join(run_sentences(CONFIG, networks))
    empty = correlation_table(networks, tables["sensitivity"], resamples=50)
    assert all("too few for a correlation" in text for text in correlation_sentences(empty, CONFIG["data"]))


def test_every_claim_names_figures_that_exist():
    assert {name for names in CLAIM_FIGURES.values() for name in names} <= set(FIGURES)
    assert {re.sub(r"\D", "", claim) for claim in CLAIM_FIGURES} == {str(number) for number in range(1, 13)}
    assert figure_title("fig03_shuffled_layers") == "Figure 3. Shuffled layers"
    assert figure_title("my_figure") == "My figure"
    assert figure_title("relu_tanh") == "ReLU and tanh"


def test_figures_come_in_the_order_of_the_paper_with_their_captions(page):
    text = page.read_text()
    assert re.findall(r'<figure id="(\w+)">', text) == [name for name in FIGURES if name in FIGURE_NAMES]
    assert FIGURES["fig03_shuffled_layers"].caption.split(".")[0] in text


def test_the_page_asks_for_nothing(page):
    """Its only sources are within the page; links to files beside it are followed by the reader alone."""
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert set(re.findall(r'src="([^,"]*)', text)) == {"data:image/png;base64"}


def test_text_of_tables_is_no_markup(page):
    assert "rho(eps, R) &gt; 0 &lt;/script&gt;" in page.read_text()


def test_points_are_the_networks_that_learned(page, tables):
    points = json.loads(re.search(r'<script id="points" type="application/json">(.*?)</script>', page.read_text(), re.S)[1])
    trained = [point for point in points if point["state"] == "trained"]
    assert len(trained) == tables["networks"]["learned"].sum()
    assert {point["noise"] for point in trained} == {"0", "3"}


def test_the_picture_tells_architectures_apart_as_the_figures_do(page):
    (look,) = json.loads(re.search(r'<script id="looks" type="application/json">(.*?)</script>', page.read_text(), re.S)[1])
    assert (look["name"], look["label"], look["colour"]) == ("lenet", "LeNet", to_hex(mark("lenet")["color"]))
    numbers = [float(text) for text in re.findall(r"-?\d+\.\d+", look["outline"])]
    assert max(map(abs, numbers)) == pytest.approx(0.5, abs=0.1)


def test_figures_have_their_size_whatever_their_resolution(page):
    """They are one inch wide, at 100 dots per inch and not the config's 200."""
    assert set(re.findall(r'<img [^>]*width="(\d+)"', page.read_text())) == {"65"}


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CLICK = """<script>
const heads = [...document.querySelectorAll("#claims th")];
heads[3].click(); heads[3].click();
const rows = document.querySelector("#claims tbody").rows;
const shown = () => [...rows].filter(row => row.offsetHeight).map(row => row.cells[0].textContent);
const order = shown();
document.getElementById("every").click();
const every = shown();
const broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).length;
const dots = document.querySelectorAll("#plot .point").length;
const box = document.querySelector("input.filter"); box.value = "no such network"; box.dispatchEvent(new Event("input"));
const left = [...box.nextElementSibling.querySelectorAll("tbody tr")].filter(row => !row.hidden).length;
document.body.dataset.seen = JSON.stringify({order, every, broken, dots, left});
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_in_a_browser_figures_show_tables_sort_and_nothing_fails(page):
    clicked = page.with_name("clicked.html")
    clicked.write_text(page.read_text().replace("</body>", CLICK), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", clicked.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    seen = json.loads(re.search(r'data-seen="([^"]*)"', done.stdout)[1].replace("&quot;", '"'))
    # The statistic, from the largest to the least; a claim without one comes last. Four networks learned without noise.
    assert seen == {"order": ["1", "2", "3", "10"], "every": ["1", "2", "10", "3", "10"], "broken": 0, "dots": 4, "left": 0}
