"""Pages of the documentation that are made from the code: keys of the config, figures, public names, the pipeline's graph."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import relstab
from relstab.config import Config
from relstab.config.document import as_yaml
from relstab.config.section import Section, section_in
from relstab.figures import FIGURES
from relstab.report.words import figure_title

ROOT = Path(__file__).resolve().parents[1]


def _type(schema: dict[str, Any]) -> str:
    """What a key takes, from its JSON schema: "a number > 0", "one of relu, tanh"."""
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(dict.fromkeys(_type(part) for part in schema.get("anyOf", schema.get("oneOf", []))))
    if "$ref" in schema:
        return "a section"
    kind = schema.get("type")
    names = {"number": "a number", "integer": "a whole number", "string": "text", "boolean": "true or false", "null": "null"}
    if kind == "array":
        return f"a list of ({_type(schema.get('items', {}))})"
    if kind == "object":
        return "names, each with a value"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema and abs(schema[name]) < 1e4]
    return " ".join([names.get(str(kind), "any value"), *bounds])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _keys(section: type[Section], path: str) -> Iterator[str]:
    """Rows of the table of one section, then the sections within it."""
    schema = section.model_json_schema()["properties"]
    inner = []
    yield from ["| key | takes | default | |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        part = section_in(field.annotation)
        if part:
            inner.append((f"{path}{name}", field, part))
            continue
        default = "must be given" if field.is_required() else f"`{_cell(as_yaml(field.default))}`"
        yield f"| `{name}` | {_cell(_type(schema[name]))} | {default} | {_cell(field.description or '')} |"
    for name, field, part in inner:
        names = not (field.default_factory or field.default is None)
        yield from [
            "",
            f"## {name}" + (".NAME" if names else ""),
            "",
            _cell(field.description or part.__doc__ or ""),
            "",
        ]
        yield from _keys(part, f"{name}.NAME." if names else f"{name}.")


def config_page() -> str:
    """Every key of the config: what it takes, its default, what it does."""
    head = [
        "# The config",
        "",
        "`config.yaml` holds these keys with these defaults. The models of `src/relstab/config` wrote this page.",
        "",
    ]
    return "\n".join([*head, *_keys(Config, ""), ""])


def gallery_page(folder: Path, figures: Path) -> str:
    """Every figure with its caption; the picture where a run made it. Pictures are copied into ``folder``."""
    lines = [
        "# Figures",
        "",
        "The pictures are those of the smoke run (`configs/smoke.yaml`, two minutes): they show what each figure looks like, and "
        "their numbers mean nothing. What the paper's questions give is in [results](../results.md) and [digits](../digits.md).",
        "",
    ]
    for name, entry in FIGURES.items():
        lines += [f"## {figure_title(name)}", "", f"`results/figures/{name}.png`: {entry.caption}", ""]
        if (figures / f"{name}.png").exists():
            shutil.copyfile(figures / f"{name}.png", folder / f"{name}.png")
            lines += [f"![{figure_title(name)}]({name}.png)", ""]
        else:
            lines += ["*The smoke run does not draw this figure.*", ""]
    return "\n".join(lines)


def api_page() -> str:
    """The public names."""
    lines = ["# The library's names", "", "`import relstab` gives these names.", ""]
    for name in relstab.__all__:
        value = getattr(relstab, name)
        if name == "ARCHITECTURES":
            continue
        kind = "autoclass" if isinstance(value, type) else "autofunction"
        lines += ["```{eval-rst}", f".. {kind}:: relstab.{name}", "   :members:" if name == "Probes" else "", "```", ""]
    lines += [
        "## ARCHITECTURES",
        "",
        "A dict of the architectures that `relstab.build_model` builds, by name:",
        "",
        "| name | label |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {entry.label} |" for name, entry in relstab.ARCHITECTURES.items()]
    return "\n".join([*lines, ""])


def rule_graph(config: str) -> str:
    """The rules of a run and what each needs, in the language of Graphviz."""
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "dot", "--cores", "1", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(ROOT / "docs/generated"), "--forceall", "--configfile", config]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return shown[shown.index("digraph") :]


def pipeline_page(folder: Path) -> str:
    """The graph of the pipeline, drawn as an SVG."""
    graph = rule_graph(str(ROOT / "configs/smoke.yaml"))
    graph = graph.replace("graph[", "graph[rankdir=LR, ranksep=0.3, nodesep=0.1, ").replace("fontname=sans", "fontname=Helvetica")
    graph = re.sub(r', color = "[\d. ]+"', "", graph).replace("penwidth=2", "penwidth=1").replace("fontsize=10", "fontsize=11")
    graph = graph.replace("node[", 'node[margin="0.25,0.05", ')
    # The target says nothing: every table and figure is an arrow to it.
    target = re.search(r'^\s*(\d+)\[label = "all"', graph, flags=re.MULTILINE)
    assert target
    graph = re.sub(rf"^\s*(?:{target[1]}\[.*|\d+ -> {target[1]})\n", "", graph, flags=re.MULTILINE)
    dot = shutil.which("dot") or shutil.which("graphviz-pure", path=str(Path(sys.executable).parent)) or "graphviz-pure"
    with (folder / "pipeline.svg").open("w") as file:
        subprocess.run([dot, "-Tsvg"], input=graph, stdout=file, text=True, check=True)
    return "\n".join(
        [
            "# The pipeline",
            "",
            "The rules of a run (`workflow/rules`), and what each needs. An arrow goes from a rule to one that reads its files.",
            "",
            "![Graph of the rules](pipeline.svg)",
            "",
            "`snakemake -n` lists the jobs of these rules that a run would start, `snakemake --rulegraph` writes this graph.",
            "",
        ]
    )


def write_all(folder: Path, figures: Path) -> None:
    """Write the pages into ``folder``; ``figures`` holds pictures of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "config": config_page(),
        "gallery": gallery_page(folder, figures),
        "api": api_page(),
        "pipeline": pipeline_page(folder),
    }
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:  # Sphinx reads again what is newer
            path.write_text(text)
