"""Train one network."""

from pathlib import Path

from relstab.config import Training
from relstab.files.dataset import read_dataset, read_noisy_test
from relstab.stages.networks import train_and_save

from job import device, job

# "_images64" where the size of the training set is an axis.
size = snakemake.wildcards.subset.removeprefix("_images")
with job(snakemake) as report, device(snakemake) as device_name:
    network = train_and_save(
        snakemake.output.network,
        snakemake.wildcards.architecture,
        read_dataset(snakemake.input.dataset, int(size) if size else None),
        read_noisy_test(snakemake.input.test),
        Training(**snakemake.params.options["recipe"]),
        float(snakemake.wildcards.noise),
        int(snakemake.wildcards.seed),
        snakemake.params.options["config_seed"],
        device_name,
        checkpoint_minutes=snakemake.config["checkpoint_minutes"],
        # Beside the log: seed0.log, seed0/events...
        tensorboard=Path(snakemake.log[0]).with_suffix("") if snakemake.config["training_log"] else None,
    )
    last = network.history[-1]
    report(f"test error {last['test_error']:.4f} and loss {last['train_loss']:.4f} after {len(network.history)} epochs")
