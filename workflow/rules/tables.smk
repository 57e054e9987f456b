# Tidy tables: collected from the HDF5 files of all networks, or derived from other tables.

TABLES = f"{RESULTS}/tables"
# Parts of scale detection that the run has.
HAS_SIMPLE = bool(CONFIG.scale_detection.experiments)
HAS_PAIRS = bool(CONFIG.scale_detection.architectures)


def table(name):
    """File of a table."""
    return f"{TABLES}/{name}.csv"


def measured(files):
    """Files of sensitivities of some networks; ``files`` gives the file names of a pattern."""
    return files(f"{RESULTS}/sensitivity/{NETWORK}.h5")


NETWORK_OPTIONS = {"learned_below": CONFIG.correlation.learned_below, "weights": CONFIG.sensitivity.weights}
SHUFFLED = f"{RESULTS}/sensitivity/{NETWORK}_shuffled.h5"
PAIR_TABLES = {name: table(f"scale_detection_{name}") for name in ("networks", "sensitivity")}
SIMPLE_TABLES = {"layers": table("scale_detection_layers"), "exponents": table("scale_detection")}
# By name: whether the run makes it; the function of relstab.stages.tables that makes it; its inputs, HDF5 files or tables; its arguments;
# the caption of the tables that the report shows.
TABLE_ENTRIES = {
    "networks": (
        True,
        "network_table",
        {"networks": of_all_networks(f"{RESULTS}/networks/{NETWORK}.h5")},
        NETWORK_OPTIONS,
        "networks",
    ),
    "history": (True, "history_table", {"networks": of_all_networks(f"{RESULTS}/networks/{NETWORK}.h5")}, {}, ""),
    "sensitivity": (
        True,
        "sensitivity_table",
        {
            "measured": measured(of_all_networks),
            "shuffled": of_all_networks(SHUFFLED, CONFIG.shuffled_noise, convolutional(), largest_size()),
        },
        {},
        "",
    ),
    "spectrum": (
        True,
        "spectrum_table",
        {"spectra": of_all_networks(f"{RESULTS}/spectra/{NETWORK}.h5", architectures=convolutional(), sizes=largest_size())},
        {},
        "",
    ),
    "over_training": (
        bool(followed()),
        "over_training_table",
        {"measured": of_all_networks(f"{RESULTS}/sensitivity/{NETWORK}_over_training.h5", architectures=followed())},
        {},
        "",
    ),
    "sensitivity_sweep": (
        bool(swept()),
        "sweep_table",
        {"measured": of_all_networks(f"{RESULTS}/sensitivity/{NETWORK}_sweep.h5", [min(CONFIG.noise)], swept())},
        {},
        "",
    ),
    "correlation": (
        True,
        "correlation_table",
        {"networks": table("networks"), "sensitivity": table("sensitivity")},
        INTERVAL,
        "correlation",
    ),
    "claims": (
        True,
        "claim_table",
        {
            **{name: table(name) for name in ("networks", "sensitivity", "spectrum")},
            **(SIMPLE_TABLES if HAS_SIMPLE else {}),
            **({f"pair_{name}": file for name, file in PAIR_TABLES.items()} if HAS_PAIRS else {}),
        },
        INTERVAL,
        "claims",
    ),
    "scale_detection_layers": (
        HAS_SIMPLE,
        "layer_table",
        {"measured": of_all_ensembles(f"{SCALE}/sensitivity/{ENSEMBLE}.h5"), "homogeneous": f"{SCALE}/homogeneous.h5"},
        {},
        "",
    ),
    "scale_detection": (HAS_SIMPLE, "exponent_table", {"layers": table("scale_detection_layers")}, INTERVAL, "exponents"),
    "scale_detection_samples": (
        HAS_SIMPLE or HAS_PAIRS,
        "sample_table",
        {},
        {"tasks": sampled_tasks(), "seed": CONFIG.seed},
        "",
    ),
    "scale_detection_networks": (
        HAS_PAIRS,
        "network_table",
        {"networks": of_pair_networks(f"{RESULTS}/networks/{NETWORK}.h5")},
        NETWORK_OPTIONS,
        "networks",
    ),
    "scale_detection_sensitivity": (
        HAS_PAIRS,
        "sensitivity_table",
        {"measured": measured(of_pair_networks), "shuffled": []},
        {},
        "",
    ),
    "scale_detection_correlation": (HAS_PAIRS, "correlation_table", PAIR_TABLES, INTERVAL, "correlation"),
    "imagenet_spectrum": (
        bool(CONFIG.imagenet.networks),
        "spectrum_table",
        {"spectra": of_imagenet_networks(f"{RESULTS}/spectra/{NETWORK}.h5")},
        {},
        "",
    ),
    "imagenet_sensitivity": (
        HAS_IMAGENET_IMAGES,
        "sensitivity_table",
        {"measured": measured(of_imagenet_networks), "shuffled": of_imagenet_networks(SHUFFLED)},
        {},
        "",
    ),
}
TABLE_FILES = [table(name) for name, entry in TABLE_ENTRIES.items() if entry[0] and name != "claims"]

for name, (is_made, maker, inputs, values, caption) in TABLE_ENTRIES.items():
    if not is_made:
        continue

    rule:
        name:
            f"table_{name}"
        input:
            **inputs,
        output:
            table=report(table(name), caption=f"../report/{caption}.rst", category="Tables") if caption else table(name),
        log:
            f"{LOGS}/tables/{name}.log",
        benchmark:
            f"{BENCHMARKS}/tables/{name}.tsv"
        conda:
            "../../envs/relstab.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(10),
        params:
            **options(function=maker, arguments=values),
        script:
            "../scripts/table.py"
