# Networks that torchvision or timm has trained on ImageNet, and images to measure them on. The rules for the networks of the run measure their
# filters and sensitivities.


rule imagenet_images:
    output:
        images=IMAGENET_IMAGES,
    log:
        f"{LOGS}/imagenet_images.log",
    benchmark:
        f"{BENCHMARKS}/imagenet_images.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(imagenet_memory),
        runtime=growing(60),
    params:
        **options(
            folder=CONFIG.imagenet.images,
            number=CONFIG.imagenet.probes,
            resize=CONFIG.imagenet.resize,
            crop=CONFIG.imagenet.crop,
            seed=CONFIG.seed,
        ),
    script:
        "../scripts/imagenet_images.py"


rule imagenet_probes:
    input:
        images=IMAGENET_IMAGES,
    output:
        probes=f"{RESULTS}/probes/{IMAGENET}/noise0.h5",
    log:
        f"{LOGS}/imagenet_probes.log",
    benchmark:
        f"{BENCHMARKS}/imagenet_probes.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: 1
    resources:
        mem_mb=growing(imagenet_memory),
        runtime=growing(30),
    params:
        **options(
            displacement=CONFIG.probes.displacement,
            cutoff=CONFIG.probes.cutoff,
            interpolation=CONFIG.probes.interpolation,
            seed=CONFIG.seed,
        ),
    script:
        "../scripts/imagenet_probes.py"


rule imagenet_network:
    input:
        unpack(pretrained_from),
    output:
        network=f"{RESULTS}/networks/{IMAGENET}/{{architecture}}/noise0/seed0.h5",
    log:
        f"{LOGS}/imagenet_network/{{architecture}}.log",
    benchmark:
        f"{BENCHMARKS}/imagenet_network/{{architecture}}.tsv"
    conda:
        "../../envs/relstab.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(imagenet_memory),
        runtime=growing(60),
        gpu=lambda wildcards: gpus(wildcards) if HAS_IMAGENET_IMAGES else 0,
    params:
        # A local file counts by its digest: a file with an older date may replace it.
        **options(seed=CONFIG.seed, weights=digest_of_weights),
    script:
        "../scripts/imagenet_network.py"
