# Figures, drawn from tables alone; figure 1 also shows a probe and noisy test images.

FIGURES = f"{RESULTS}/figures"
# By file name, the number of the paper first.
FIGURE_NAMES = [
    "fig01_relative_sensitivity",
    "fig02_pooling",
    "fig03_shuffled_layers",
    "fig04_filter_spectra",
    "fig10_error_scatter",
    "fig11_layer_sensitivities",
    *(["over_training"] if followed() else []),
    *(["fig05_scale_detection_samples"] if HAS_SIMPLE or HAS_PAIRS else []),
    *(["fig07_pooling_scaling", "relu_tanh"] if HAS_SIMPLE else []),
    *(["fig06_scale_detection_errors", "fig08_deep_scale_detection", "fig09_deep_scale_detection_layers"] if HAS_PAIRS else []),
    *(["fig12_filter_spectra_vgg"] if beyond_figure_4(skips=False) else []),
    *(["fig13_filter_spectra_resnet"] if beyond_figure_4(skips=True) else []),
    *(["fig14_filter_spectra_imagenet"] if CONFIG.imagenet.networks else []),
    *(["imagenet_shuffled_layers"] if HAS_IMAGENET_IMAGES else []),
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
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
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
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
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
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
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
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
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
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
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
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
    script:
        "../scripts/fig_over_training.py"


rule figure_2:
    output:
        pdf=f"{FIGURES}/fig02_pooling.pdf",
        png=report(f"{FIGURES}/fig02_pooling.png", caption="../report/fig02.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig02_pooling.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig02_pooling.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig02.py"


rule figure_5:
    input:
        samples=f"{TABLES}/scale_detection_samples.csv",
    output:
        pdf=f"{FIGURES}/fig05_scale_detection_samples.pdf",
        png=report(f"{FIGURES}/fig05_scale_detection_samples.png", caption="../report/fig05.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig05_scale_detection_samples.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig05_scale_detection_samples.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig05.py"


rule figure_6:
    input:
        networks=PAIR_TABLES["pair_networks"],
        sensitivity=PAIR_TABLES["pair_sensitivity"],
        correlation=PAIR_TABLES["pair_correlation"],
    output:
        pdf=f"{FIGURES}/fig06_scale_detection_errors.pdf",
        png=report(f"{FIGURES}/fig06_scale_detection_errors.png", caption="../report/fig06.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig06_scale_detection_errors.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig06_scale_detection_errors.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
    script:
        "../scripts/fig06.py"


rule figure_7:
    input:
        layers=SIMPLE_TABLES["layers"],
        exponents=SIMPLE_TABLES["exponents"],
    output:
        pdf=f"{FIGURES}/fig07_pooling_scaling.pdf",
        png=report(f"{FIGURES}/fig07_pooling_scaling.png", caption="../report/fig07.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig07_pooling_scaling.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig07_pooling_scaling.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig07.py"


rule figure_8:
    input:
        networks=PAIR_TABLES["pair_networks"],
        sensitivity=PAIR_TABLES["pair_sensitivity"],
    output:
        pdf=f"{FIGURES}/fig08_deep_scale_detection.pdf",
        png=report(f"{FIGURES}/fig08_deep_scale_detection.png", caption="../report/fig08.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig08_deep_scale_detection.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig08_deep_scale_detection.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
    script:
        "../scripts/fig08.py"


rule figure_9:
    input:
        networks=PAIR_TABLES["pair_networks"],
        sensitivity=PAIR_TABLES["pair_sensitivity"],
    output:
        pdf=f"{FIGURES}/fig09_deep_scale_detection_layers.pdf",
        png=report(f"{FIGURES}/fig09_deep_scale_detection_layers.png", caption="../report/fig09.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig09_deep_scale_detection_layers.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig09_deep_scale_detection_layers.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
    script:
        "../scripts/fig09.py"


rule figure_relu_tanh:
    input:
        layers=SIMPLE_TABLES["layers"],
    output:
        pdf=f"{FIGURES}/relu_tanh.pdf",
        png=report(f"{FIGURES}/relu_tanh.png", caption="../report/relu_tanh.rst", category="Figures"),
    log:
        f"{LOGS}/figures/relu_tanh.log",
    benchmark:
        f"{BENCHMARKS}/figures/relu_tanh.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        interval={
            "confidence": CONFIG.correlation.confidence,
            "resamples": CONFIG.correlation.resamples,
            "seed": CONFIG.seed,
        },
    script:
        "../scripts/fig_relu_tanh.py"


rule figure_12:
    input:
        networks=f"{TABLES}/networks.csv",
        spectrum=f"{TABLES}/spectrum.csv",
    output:
        pdf=f"{FIGURES}/fig12_filter_spectra_vgg.pdf",
        png=report(f"{FIGURES}/fig12_filter_spectra_vgg.png", caption="../report/fig12.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig12_filter_spectra_vgg.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig12_filter_spectra_vgg.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
        architectures=beyond_figure_4(skips=False),
    script:
        "../scripts/fig12.py"


rule figure_13:
    input:
        networks=f"{TABLES}/networks.csv",
        spectrum=f"{TABLES}/spectrum.csv",
    output:
        pdf=f"{FIGURES}/fig13_filter_spectra_resnet.pdf",
        png=report(f"{FIGURES}/fig13_filter_spectra_resnet.png", caption="../report/fig13.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig13_filter_spectra_resnet.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig13_filter_spectra_resnet.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
        labels=own_labels(),
        architectures=beyond_figure_4(skips=True),
    script:
        "../scripts/fig13.py"


rule figure_14:
    input:
        spectrum=f"{TABLES}/imagenet_spectrum.csv",
    output:
        pdf=f"{FIGURES}/fig14_filter_spectra_imagenet.pdf",
        png=report(f"{FIGURES}/fig14_filter_spectra_imagenet.png", caption="../report/fig14.rst", category="Figures"),
    log:
        f"{LOGS}/figures/fig14_filter_spectra_imagenet.log",
    benchmark:
        f"{BENCHMARKS}/figures/fig14_filter_spectra_imagenet.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig14.py"


rule figure_imagenet_shuffled_layers:
    input:
        sensitivity=f"{TABLES}/imagenet_sensitivity.csv",
    output:
        pdf=f"{FIGURES}/imagenet_shuffled_layers.pdf",
        png=report(
            f"{FIGURES}/imagenet_shuffled_layers.png", caption="../report/imagenet_shuffled_layers.rst", category="Figures"
        ),
    log:
        f"{LOGS}/figures/imagenet_shuffled_layers.log",
    benchmark:
        f"{BENCHMARKS}/figures/imagenet_shuffled_layers.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        dpi=CONFIG.figures.dpi,
        font_size=CONFIG.figures.font_size,
    script:
        "../scripts/fig_imagenet_shuffled_layers.py"
