# The scale-detection tasks: simple CNNs on rings, trained many at once, and deep networks on images, trained as all others.


rule train_ensemble:
    output:
        network=f"{SCALE}/networks/{ENSEMBLE}.h5",
    log:
        f"{LOGS}/train_ensemble/{ENSEMBLE}.log",
    benchmark:
        f"{BENCHMARKS}/train_ensemble/{ENSEMBLE}.tsv"
    # The longest jobs of the default run start first: started last, they would leave cores idle.
    priority: 10
    conda:
        "../../envs/relstab.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(ensemble_memory),
        runtime=growing(480),
        gpu=gpus,
    params:
        **options(
            task=lambda wildcards: experiment_of(wildcards).task(),
            design=lambda wildcards: experiment_of(wildcards).design(wildcards.activation),
            recipe=lambda wildcards: experiment_of(wildcards).recipe(wildcards.activation),
            pairs=lambda wildcards: experiment_of(wildcards).pairs,
            seeds=lambda wildcards: experiment_of(wildcards).seeds,
            config_seed=CONFIG.seed,
        ),
    script:
        "../scripts/train_ensemble.py"


rule ensemble_sensitivity:
    input:
        network=f"{SCALE}/networks/{ENSEMBLE}.h5",
    output:
        sensitivity=f"{SCALE}/sensitivity/{ENSEMBLE}.h5",
    log:
        f"{LOGS}/ensemble_sensitivity/{ENSEMBLE}.log",
    benchmark:
        f"{BENCHMARKS}/ensemble_sensitivity/{ENSEMBLE}.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(ensemble_memory),
        runtime=growing(60),
        gpu=gpus,
    params:
        **options(probes=CONFIG.scale_detection.probes, seed=CONFIG.seed),
    script:
        "../scripts/ensemble_sensitivity.py"


rule homogeneous_sensitivity:
    output:
        sensitivity=f"{SCALE}/homogeneous.h5",
    log:
        f"{LOGS}/homogeneous_sensitivity.log",
    benchmark:
        f"{BENCHMARKS}/homogeneous_sensitivity.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **options(seed=CONFIG.seed),
    script:
        "../scripts/homogeneous_sensitivity.py"


rule pair_dataset:
    output:
        dataset=f"{RESULTS}/datasets/{PAIRS}.h5",
    log:
        f"{LOGS}/pair_dataset.log",
    benchmark:
        f"{BENCHMARKS}/pair_dataset.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
    params:
        **options(
            task=CONFIG.scale_detection.images.task(),
            train=CONFIG.scale_detection.images.train_pairs,
            test=CONFIG.scale_detection.images.test_pairs,
            seed=CONFIG.seed,
        ),
    script:
        "../scripts/pair_dataset.py"


rule pair_probes:
    input:
        dataset=f"{RESULTS}/datasets/{PAIRS}.h5",
    output:
        probes=f"{RESULTS}/probes/{PAIRS}/noise0.h5",
    log:
        f"{LOGS}/pair_probes.log",
    benchmark:
        f"{BENCHMARKS}/pair_probes.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        **options(number=CONFIG.scale_detection.probes, seed=CONFIG.seed),
    script:
        "../scripts/pair_probes.py"
