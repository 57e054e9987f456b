"""Train the simple CNNs of one experiment and activation, all seeds at once."""

from relstab.scale_detection.design import SimpleDesign
from relstab.scale_detection.ensemble_training import EnsembleRecipe
from relstab.scale_detection.tasks import ScaleTask
from relstab.stages.scale_detection import train_and_save_ensemble

from job import device, job

with job(snakemake) as report, device(snakemake) as device_name:
    options = snakemake.params.options
    trained = train_and_save_ensemble(
        snakemake.output.network,
        snakemake.wildcards.experiment,
        ScaleTask(**options["task"]),
        SimpleDesign(**options["design"]),
        EnsembleRecipe(**options["recipe"]),
        *(options[key] for key in ("pairs", "seeds", "config_seed")),
        device_name,
        snakemake.config["checkpoint_minutes"],
    )
    report(f"{sum(trained.reached_zero)} of {len(trained.seeds)} networks at zero training loss, after {trained.epochs} epochs")
