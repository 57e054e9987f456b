# Training: one job is one network, so that a new seed trains that seed only.


rule train:
    input:
        dataset=f"{RESULTS}/datasets/{{dataset}}.h5",
        test=images_to_test,
    output:
        network=f"{RESULTS}/networks/{NETWORK}.h5",
    log:
        f"{LOGS}/train/{NETWORK}.log",
    benchmark:
        f"{BENCHMARKS}/train/{NETWORK}.tsv"
    wildcard_constraints:
        dataset=f"{DATASET}|{PAIRS}",
    conda:
        "../../envs/relstab.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(4000, per_mb=8),
        runtime=growing(240),
        gpu=gpus,
    params:
        **options(
            recipe=recipe_of,
            recipe_version=RECIPE_VERSION,
            source=lambda wildcards: architecture_source(wildcards.architecture),
            config_seed=CONFIG.seed,
        ),
    script:
        "../scripts/train.py"


if TOGETHER:

    ruleorder: train_together > train

    # Each network still has its job, which takes the network from the job that has trained it (relstab.files.trained_early).
    use rule train as train_together with:
        wildcard_constraints:
            dataset=f"{DATASET}|{PAIRS}",
            architecture="|".join(TOGETHER),
        resources:
            mem_mb=growing(4000, per_mb=16),
            runtime=growing(10),
            gpu=gpus,
