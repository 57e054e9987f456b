"""Train one network."""

from relstab.config import Training
from relstab.datasets import read_dataset, read_noisy_test
from relstab.training import choose_device, save_network, train_network

from job import job

with job(snakemake) as tell:
    dataset = read_dataset(snakemake.input.dataset)
    test = read_noisy_test(snakemake.input.test)
    recipe = Training(**snakemake.params.recipe)
    device = str(choose_device(snakemake.config["device"]))
    architecture, noise, seed = snakemake.wildcards.architecture, float(snakemake.wildcards.noise), int(snakemake.wildcards.seed)
    network = train_network(architecture, dataset, test, recipe, noise, seed, snakemake.params.seed, device)
    last = network.history[-1]
    tell(f"test error {last['test_error']:.4f} and loss {last['train_loss']:.4f} after {len(network.history)} epochs")
    save_network(snakemake.output.network, network, snakemake.params.seed, device)
