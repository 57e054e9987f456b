# Frequency content of the filters.


rule spectra:
    input:
        network=f"{RESULTS}/networks/{NETWORK}.h5",
    output:
        spectra=f"{RESULTS}/spectra/{NETWORK}.h5",
    log:
        f"{LOGS}/spectra/{NETWORK}.log",
    benchmark:
        f"{BENCHMARKS}/spectra/{NETWORK}.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        **options(weights=trained_weights),
    script:
        "../scripts/spectra.py"
