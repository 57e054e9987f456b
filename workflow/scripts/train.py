"""Train one network, or, on a GPU, some of the same architecture."""

from relstab.config import Training
from relstab.files.dataset import read_dataset, read_noisy_test
from relstab.files.network import read_history
from relstab.files.trained_early import PlannedNetwork
from relstab.stages.networks import its_turn, train_and_save

from job import device, job, networks_per_job, plan_for

path, config, inputs = snakemake.output.network, snakemake.config, snakemake.input
# "_images64" where the size of the training set is an axis.
size = snakemake.wildcards.subset.removeprefix("_images")
network = PlannedNetwork(path, plan_for(snakemake, path), inputs.dataset, inputs.test, snakemake.log[0])
with job(snakemake) as report, its_turn(network, config["results"], networks_per_job(snakemake)) as others:
    if others is not None:
        with device(snakemake) as chosen:
            train_and_save(
                path,
                snakemake.wildcards.architecture,
                read_dataset(inputs.dataset, int(size) if size else None),
                read_noisy_test(inputs.test),
                Training(**snakemake.params.options["recipe"]),
                network.sigma,
                network.seed,
                snakemake.params.options["config_seed"],
                chosen,
                checkpoint_minutes=config["checkpoint_minutes"],
                tensorboard=network.events if config["training_log"] else None,
                others=others,
            )
    history = read_history(path)[1]
    error, loss = history["test_error"][-1], history["train_loss"][-1]
    report(f"test error {error:.4f} and loss {loss:.4f} after {len(history['epoch'])} epochs")
