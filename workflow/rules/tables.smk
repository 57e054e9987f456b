# Tidy tables over all networks of the run, and the claims decided from them.

TABLES = f"{RESULTS}/tables"
# What there is of scale detection.
HAS_SIMPLE = bool(CONFIG.scale_detection.experiments)
HAS_PAIRS = bool(CONFIG.scale_detection.architectures)
SIMPLE_TABLES = {"layers": f"{TABLES}/scale_detection_layers.csv", "exponents": f"{TABLES}/scale_detection.csv"}
PAIR_TABLES = {f"pair_{name}": f"{TABLES}/scale_detection_{name}.csv" for name in ("networks", "sensitivity", "correlation")}


rule all_tables:
    input:
        expand(f"{TABLES}/{{table}}.csv", table=["networks", "sensitivity", "spectrum", "correlation"]),
        [f"{TABLES}/over_training.csv"] if followed() else [],
        [f"{TABLES}/scale_detection_samples.csv"] if HAS_SIMPLE or HAS_PAIRS else [],
        SIMPLE_TABLES.values() if HAS_SIMPLE else [],
        PAIR_TABLES.values() if HAS_PAIRS else [],
        [f"{TABLES}/imagenet_spectrum.csv"] if CONFIG.imagenet.networks else [],
        [f"{TABLES}/imagenet_sensitivity.csv"] if HAS_IMAGENET_IMAGES else [],


rule claims:
    input:
        f"{TABLES}/claims.csv",


rule network_table:
    input:
        networks=of_all_networks(f"{RESULTS}/networks/{NETWORK}.h5"),
    output:
        table=report(f"{TABLES}/networks.csv", caption="../report/networks.rst", category="Tables"),
    log:
        f"{LOGS}/tables/networks.log",
    benchmark:
        f"{BENCHMARKS}/tables/networks.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        learned_below=CONFIG.correlation.learned_below,
        weights=CONFIG.sensitivity.weights,
    script:
        "../scripts/network_table.py"


rule sensitivity_table:
    input:
        measured=of_all_networks(f"{RESULTS}/sensitivity/{NETWORK}.h5"),
        shuffled=of_all_networks(f"{RESULTS}/sensitivity/{NETWORK}_shuffled.h5", CONFIG.shuffled_noise, convolutional()),
    output:
        table=f"{TABLES}/sensitivity.csv",
    log:
        f"{LOGS}/tables/sensitivity.log",
    benchmark:
        f"{BENCHMARKS}/tables/sensitivity.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    script:
        "../scripts/sensitivity_table.py"


rule over_training_table:
    input:
        measured=of_all_networks(f"{RESULTS}/sensitivity/{NETWORK}_over_training.h5", architectures=followed()),
    output:
        table=f"{TABLES}/over_training.csv",
    log:
        f"{LOGS}/tables/over_training.log",
    benchmark:
        f"{BENCHMARKS}/tables/over_training.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    script:
        "../scripts/over_training_table.py"


rule spectrum_table:
    input:
        spectra=of_all_networks(f"{RESULTS}/spectra/{NETWORK}.h5", architectures=convolutional()),
    output:
        table=f"{TABLES}/spectrum.csv",
    log:
        f"{LOGS}/tables/spectrum.log",
    benchmark:
        f"{BENCHMARKS}/tables/spectrum.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    script:
        "../scripts/spectrum_table.py"


rule correlation_table:
    input:
        networks=f"{TABLES}/networks.csv",
        sensitivity=f"{TABLES}/sensitivity.csv",
    output:
        table=report(f"{TABLES}/correlation.csv", caption="../report/correlation.rst", category="Tables"),
    log:
        f"{LOGS}/tables/correlation.log",
    benchmark:
        f"{BENCHMARKS}/tables/correlation.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        confidence=CONFIG.correlation.confidence,
        resamples=CONFIG.correlation.resamples,
        seed=CONFIG.seed,
    script:
        "../scripts/correlation_table.py"


rule claim_table:
    input:
        **(SIMPLE_TABLES if HAS_SIMPLE else {}),
        **({name: PAIR_TABLES[name] for name in ("pair_networks", "pair_sensitivity")} if HAS_PAIRS else {}),
        networks=f"{TABLES}/networks.csv",
        sensitivity=f"{TABLES}/sensitivity.csv",
        spectrum=f"{TABLES}/spectrum.csv",
    output:
        table=report(f"{TABLES}/claims.csv", caption="../report/claims.rst", category="Tables"),
    log:
        f"{LOGS}/tables/claims.log",
    benchmark:
        f"{BENCHMARKS}/tables/claims.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        confidence=CONFIG.correlation.confidence,
        resamples=CONFIG.correlation.resamples,
        seed=CONFIG.seed,
    script:
        "../scripts/claim_table.py"


rule layer_table:
    input:
        measured=of_all_ensembles(f"{SCALE}/sensitivity/{ENSEMBLE}.h5"),
        homogeneous=f"{SCALE}/homogeneous.h5",
    output:
        table=SIMPLE_TABLES["layers"],
    log:
        f"{LOGS}/tables/scale_detection_layers.log",
    benchmark:
        f"{BENCHMARKS}/tables/scale_detection_layers.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    script:
        "../scripts/layer_table.py"


rule exponent_table:
    input:
        layers=SIMPLE_TABLES["layers"],
    output:
        table=report(SIMPLE_TABLES["exponents"], caption="../report/exponents.rst", category="Tables"),
    log:
        f"{LOGS}/tables/scale_detection.log",
    benchmark:
        f"{BENCHMARKS}/tables/scale_detection.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        confidence=CONFIG.correlation.confidence,
        resamples=CONFIG.correlation.resamples,
        seed=CONFIG.seed,
    script:
        "../scripts/exponent_table.py"


rule sample_table:
    output:
        table=f"{TABLES}/scale_detection_samples.csv",
    log:
        f"{LOGS}/tables/scale_detection_samples.log",
    benchmark:
        f"{BENCHMARKS}/tables/scale_detection_samples.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        tasks=sampled_tasks(),
        seed=CONFIG.seed,
    script:
        "../scripts/sample_table.py"


use rule network_table as pair_network_table with:
    input:
        networks=of_pair_networks(f"{RESULTS}/networks/{NETWORK}.h5"),
    output:
        table=PAIR_TABLES["pair_networks"],
    log:
        f"{LOGS}/tables/scale_detection_networks.log",
    benchmark:
        f"{BENCHMARKS}/tables/scale_detection_networks.tsv"


use rule sensitivity_table as pair_sensitivity_table with:
    input:
        measured=of_pair_networks(f"{RESULTS}/sensitivity/{NETWORK}.h5"),
        shuffled=[],
    output:
        table=PAIR_TABLES["pair_sensitivity"],
    log:
        f"{LOGS}/tables/scale_detection_sensitivity.log",
    benchmark:
        f"{BENCHMARKS}/tables/scale_detection_sensitivity.tsv"


use rule correlation_table as pair_correlation_table with:
    input:
        networks=PAIR_TABLES["pair_networks"],
        sensitivity=PAIR_TABLES["pair_sensitivity"],
    output:
        table=PAIR_TABLES["pair_correlation"],
    log:
        f"{LOGS}/tables/scale_detection_correlation.log",
    benchmark:
        f"{BENCHMARKS}/tables/scale_detection_correlation.tsv"


use rule spectrum_table as imagenet_spectrum_table with:
    input:
        spectra=of_imagenet_networks(f"{RESULTS}/spectra/{NETWORK}.h5"),
    output:
        table=f"{TABLES}/imagenet_spectrum.csv",
    log:
        f"{LOGS}/tables/imagenet_spectrum.log",
    benchmark:
        f"{BENCHMARKS}/tables/imagenet_spectrum.tsv"


use rule sensitivity_table as imagenet_sensitivity_table with:
    input:
        measured=of_imagenet_networks(f"{RESULTS}/sensitivity/{NETWORK}.h5"),
        shuffled=of_imagenet_networks(f"{RESULTS}/sensitivity/{NETWORK}_shuffled.h5"),
    output:
        table=f"{TABLES}/imagenet_sensitivity.csv",
    log:
        f"{LOGS}/tables/imagenet_sensitivity.log",
    benchmark:
        f"{BENCHMARKS}/tables/imagenet_sensitivity.tsv"
