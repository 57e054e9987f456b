# Figures, drawn from tables alone; figure 1 also shows a probe and noisy test images.

FIGURES = f"{RESULTS}/figures"
# By file name, the number of the paper first.
FIGURE_NAMES = [
    "fig01_relative_sensitivity",
    "fig03_shuffled_layers",
    "fig04_filter_spectra",
    "fig10_error_scatter",
    "fig11_layer_sensitivities",
    *(["over_training"] if followed() else []),
]


rule all_figures:
    input:
        expand(f"{FIGURES}/{{figure}}.{{suffix}}", figure=FIGURE_NAMES, suffix=["pdf", "png"]),


rule figure_1:
    input:
        networks=f"{TABLES}/networks.csv",
        sensitivity=f"{TABLES}/sensitivity.csv",
        correlation=f"{TABLES}/correlation.csv",
        probes=f"{RESULTS}/probes/{DATASET}/noise{noise_name(min(CONFIG.noise))}.h5",
        noisy=[f"{RESULTS}/datasets/{DATASET}/test_noise{noise_name(noise)}.h5" for noise in CONFIG.noise],
    output:
        pdf=f"{FIGURES}/fig01_relative_sensitivity.pdf",
        png=report(f"{FIGURES}/fig01_relative_sensitivity.png", caption="../report/fig01.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig01_relative_sensitivity.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig01_relative_sensitivity.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        noise=CONFIG.noise,
        example=CONFIG.figures.example,
    script:
        "../scripts/fig01.py"


rule figure_3:
    input:
        networks=f"{TABLES}/networks.csv",
        sensitivity=f"{TABLES}/sensitivity.csv",
    output:
        pdf=f"{FIGURES}/fig03_shuffled_layers.pdf",
        png=report(f"{FIGURES}/fig03_shuffled_layers.png", caption="../report/fig03.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig03_shuffled_layers.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig03_shuffled_layers.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig03.py"


rule figure_4:
    input:
        networks=f"{TABLES}/networks.csv",
        spectrum=f"{TABLES}/spectrum.csv",
    output:
        pdf=f"{FIGURES}/fig04_filter_spectra.pdf",
        png=report(f"{FIGURES}/fig04_filter_spectra.png", caption="../report/fig04.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig04_filter_spectra.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig04_filter_spectra.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig04.py"


rule figure_10:
    input:
        networks=f"{TABLES}/networks.csv",
        sensitivity=f"{TABLES}/sensitivity.csv",
        correlation=f"{TABLES}/correlation.csv",
    output:
        pdf=f"{FIGURES}/fig10_error_scatter.pdf",
        png=report(f"{FIGURES}/fig10_error_scatter.png", caption="../report/fig10.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig10_error_scatter.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig10_error_scatter.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig10.py"


rule figure_11:
    input:
        networks=f"{TABLES}/networks.csv",
        sensitivity=f"{TABLES}/sensitivity.csv",
    output:
        pdf=f"{FIGURES}/fig11_layer_sensitivities.pdf",
        png=report(f"{FIGURES}/fig11_layer_sensitivities.png", caption="../report/fig11.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig11_layer_sensitivities.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig11_layer_sensitivities.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig11.py"


rule figure_over_training:
    input:
        networks=f"{TABLES}/networks.csv",
        over_training=f"{TABLES}/over_training.csv",
    output:
        pdf=f"{FIGURES}/over_training.pdf",
        png=report(f"{FIGURES}/over_training.png", caption="../report/over_training.rst", category="Figures"),
    log:
        f"{LOGS}/figures/over_training.log",
    benchmark:
        f"{BENCHMARKS}/figures/over_training.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig_over_training.py"
