# D, G and R of every layer: of the networks as they are, with shuffled channels, and over training.


rule sensitivity:
    input:
        network=f"{RESULTS}/networks/{NETWORK}.h5",
        probes=f"{RESULTS}/probes/{{dataset}}/noise{{noise}}.h5",
    output:
        sensitivity=f"{RESULTS}/sensitivity/{NETWORK}.h5",
    log:
        f"{LOGS}/sensitivity/{NETWORK}.log",
    benchmark:
        f"{BENCHMARKS}/sensitivity/{NETWORK}.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(measuring_memory if HAS_IMAGENET_IMAGES else 4000),
        runtime=growing(30),
        gpu=gpus,
    params:
        **options(weights=trained_weights, keep_activations=CONFIG.sensitivity.keep_activations),
    script:
        "../scripts/sensitivity.py"


rule shuffled_sensitivity:
    input:
        network=f"{RESULTS}/networks/{NETWORK}.h5",
        probes=f"{RESULTS}/probes/{{dataset}}/noise{{noise}}.h5",
    output:
        sensitivity=f"{RESULTS}/sensitivity/{NETWORK}_shuffled.h5",
    log:
        f"{LOGS}/shuffled_sensitivity/{NETWORK}.log",
    benchmark:
        f"{BENCHMARKS}/shuffled_sensitivity/{NETWORK}.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(measuring_memory if HAS_IMAGENET_IMAGES else 4000),
        runtime=growing(60),
        gpu=gpus,
    params:
        **options(
            shuffles=CONFIG.channel_shuffle.count,
            which=CONFIG.channel_shuffle.which,
            weights=trained_weights,
            seed=CONFIG.seed,
        ),
    script:
        "../scripts/shuffled_sensitivity.py"


rule sensitivity_over_training:
    input:
        network=f"{RESULTS}/networks/{NETWORK}.h5",
        probes=f"{RESULTS}/probes/{{dataset}}/noise{{noise}}.h5",
    output:
        sensitivity=f"{RESULTS}/sensitivity/{NETWORK}_over_training.h5",
    log:
        f"{LOGS}/sensitivity_over_training/{NETWORK}.log",
    benchmark:
        f"{BENCHMARKS}/sensitivity_over_training/{NETWORK}.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=gpus,
    script:
        "../scripts/sensitivity_over_training.py"


rule sensitivity_sweep:
    input:
        network=f"{RESULTS}/networks/{NETWORK}.h5",
        test=images_to_test,
    output:
        sensitivity=f"{RESULTS}/sensitivity/{NETWORK}_sweep.h5",
    log:
        f"{LOGS}/sensitivity_sweep/{NETWORK}.log",
    benchmark:
        f"{BENCHMARKS}/sensitivity_sweep/{NETWORK}.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(4000, per_mb=8),
        runtime=growing(60),
        gpu=gpus,
    params:
        **options(
            number=CONFIG.probes.images,
            sweep=CONFIG.probes.sweep_pairs,
            interpolation=CONFIG.probes.interpolation,
            weights=trained_weights,
            seed=CONFIG.seed,
        ),
    script:
        "../scripts/sensitivity_sweep.py"
