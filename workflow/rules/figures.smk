# Figures, drawn from tables alone; figure 1 also shows a probe and noisy test images. relstab.figures.FIGURES lists the inputs of each.

FIGURE_FOLDER = f"{RESULTS}/figures"
# Conditions of the figures that only some runs draw.
CONDITIONS = {
    "": True,
    "snapshots": bool(followed()),
    "training sizes": CONFIG.data.training_sizes != [None],
    "sweep": bool(swept()),
    "scale detection": HAS_SIMPLE or HAS_PAIRS,
    "rings": HAS_SIMPLE,
    "pairs": HAS_PAIRS,
    "beyond figure 4, without skips": bool(beyond_figure_4(skips=False)),
    "beyond figure 4, with skips": bool(beyond_figure_4(skips=True)),
    "imagenet": bool(CONFIG.imagenet.networks),
    "imagenet images": HAS_IMAGENET_IMAGES,
}
FIGURE_NAMES = [name for name, entry in FIGURES.items() if CONDITIONS[entry.when]]
FIGURE_FILES = expand(f"{FIGURE_FOLDER}/{{figure}}.{{suffix}}", figure=FIGURE_NAMES, suffix=["pdf", "png"])


rule figure:
    input:
        unpack(figure_inputs),
    output:
        pdf=f"{FIGURE_FOLDER}/{{figure}}.pdf",
        png=report(f"{FIGURE_FOLDER}/{{figure}}.png", caption="../report/figure.rst", category="Figures"),
    log:
        f"{LOGS}/figures/{{figure}}.log",
    benchmark:
        f"{BENCHMARKS}/figures/{{figure}}.tsv"
    wildcard_constraints:
        figure="|".join(FIGURES),
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(3),
    params:
        options=figure_options,
    script:
        "../scripts/figure.py"
