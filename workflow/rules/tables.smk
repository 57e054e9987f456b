# Tidy tables over all networks of the run, and the claims decided from them.

TABLES = f"{RESULTS}/tables"


rule all_tables:
    input:
        expand(f"{TABLES}/{{table}}.csv", table=["networks", "sensitivity", "spectrum", "correlation"]),
        [f"{TABLES}/over_training.csv"] if followed() else [],


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
        mem_mb=2000,
        runtime=10,
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
        mem_mb=4000,
        runtime=10,
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
        mem_mb=4000,
        runtime=10,
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
        mem_mb=2000,
        runtime=10,
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
        mem_mb=2000,
        runtime=10,
    params:
        confidence=CONFIG.correlation.confidence,
        resamples=CONFIG.correlation.resamples,
        seed=CONFIG.seed,
    script:
        "../scripts/correlation_table.py"


rule claim_table:
    input:
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
        mem_mb=2000,
        runtime=10,
    params:
        confidence=CONFIG.correlation.confidence,
        resamples=CONFIG.correlation.resamples,
        seed=CONFIG.seed,
    script:
        "../scripts/claim_table.py"
