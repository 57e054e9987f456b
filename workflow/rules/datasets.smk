# Data sets, prepared once; their noisy test images; the probes.


rule prepare_dataset:
    output:
        dataset=f"{RESULTS}/datasets/{{dataset}}.h5",
    log:
        f"{LOGS}/prepare_dataset/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/prepare_dataset/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=DATASET,
    conda:
        "../../envs/relstab.yaml"
    threads: 8 if CONFIG.data.name == IMAGE_FOLDER else 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        # User code counts by its text: a file with a new date and the same text is not a change.
        **options(**data_options(), source=source_digest(CONFIG.data.function) if CONFIG.data.function else ""),
    script:
        "../scripts/prepare_dataset.py"


rule noisy_test:
    input:
        dataset=f"{RESULTS}/datasets/{{dataset}}.h5",
    output:
        noisy_test=f"{RESULTS}/datasets/{{dataset}}/test_noise{{noise}}.h5",
    log:
        f"{LOGS}/noisy_test/{{dataset}}/noise{{noise}}.log",
    benchmark:
        f"{BENCHMARKS}/noisy_test/{{dataset}}/noise{{noise}}.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000, per_mb=8),
        runtime=growing(10),
    params:
        **options(seed=CONFIG.seed),
    script:
        "../scripts/noisy_test.py"


rule probes:
    input:
        test=images_to_test,
    output:
        probes=f"{RESULTS}/probes/{{dataset}}/noise{{noise}}.h5",
    log:
        f"{LOGS}/probes/{{dataset}}/noise{{noise}}.log",
    benchmark:
        f"{BENCHMARKS}/probes/{{dataset}}/noise{{noise}}.tsv"
    wildcard_constraints:
        dataset=DATASET,
    # Probes run before training, so that an error in them is found first.
    priority: 1
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000, per_mb=8),
        runtime=growing(10),
    params:
        **options(
            number=CONFIG.probes.images,
            displacement=CONFIG.probes.displacement,
            cutoff=CONFIG.probes.cutoff,
            interpolation=CONFIG.probes.interpolation,
            seed=CONFIG.seed,
        ),
    script:
        "../scripts/probes.py"
