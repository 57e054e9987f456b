# `make figures` and `make test` need nothing but Python 3.11 or later: they make .venv, install there, and run.

PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
BIN := .venv/bin

# Snakemake starts the interpreter by its path as it is: a space in it ends the command.
ifneq ($(words $(CURDIR)),1)
$(error The path of this checkout, "$(CURDIR)", has a space in it: move it to one without)
endif


.PHONY: archive install figures test test-fast test-oldest torture check format bench docs schema clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

# The default workflow, to its figures, tables and claims.
figures: install
	$(BIN)/snakemake --cores $(CORES) all

# Unit tests run in one process per core, each with one thread: most are too small for two.
UNIT := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit --numprocesses $(CORES) -m "not slow"

# The slow ones share finished runs and clusters, so that a file stays in one process; in one more than there are cores, because those of
# the cluster mostly wait for its queue. They come first, as the longest.
SLOW := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $$(($(CORES) + 1)) --dist loadfile --no-loadscope-reorder -m slow

test: install
	$(UNIT)
	$(SLOW)

# Without the tests that run the workflow, a cluster or long training runs.
test-fast: install
	$(UNIT)

# The library alone, with the oldest versions that pyproject.toml allows; Python 3.11 has wheels of all of them. No tensorboard.
OLDEST := architectures cli data figures/test_plot.py files runs/test_allocation.py scale_detection tables \
	training test_activations.py test_bootstrap.py test_channel_shuffle.py test_compiled_sums.py test_diffeomorphism.py \
	test_filter_spectra.py test_interpolation.py test_noise_and_probes.py test_perturbations.py test_recorder.py test_sensitivity.py
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --constraint envs/oldest.txt ".[plot]" numba==0.61 pytest hypothesis mlxtend seaborn
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -m "not slow" --ignore tests/unit/training/test_tensorboard.py \
		$(addprefix tests/unit/,$(OLDEST))

# Break files, configs and runs in some three thousand ways, and count what came of it; docs/reliability.md.
torture: install
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m torture

# Format, lint, types, and whether config.yaml and its JSON schema are those of the models.
check: install
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint
	$(BIN)/python -m relstab.config --check

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

# Training beside the bare step and the textbook loop, many simple CNNs at once beside one after another, sensitivities beside bare
# forward passes and the textbook method, bfloat16 beside float32, a folder of images beside decoding it, how much of the last `make figures`
# was not work, and how planning grows with the grid: about an hour on 2 cores.
bench: install
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/ensemble.py
	$(BIN)/python benchmarks/sensitivity.py
	$(BIN)/pip install --quiet tmeasures==1.2.11 statsmodels && $(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/image_folder.py
	$(BIN)/python benchmarks/overhead.py results
	$(BIN)/python benchmarks/dag.py

# The documentation, in docs/_build/html: pages, a notebook that runs, the reference of config and library, figures of the smoke run.
docs: install
	$(BIN)/snakemake all_figures --cores $(CORES) --configfile configs/smoke.yaml
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --conf-dir docs . docs/_build/html

# A finished run as one zip to publish: RESULTS is its folder, CONFIG the overlay that it was made with, if any, LICENSE the license under
# which you publish it, such as CC-BY-4.0.
RESULTS ?= results
archive: install
	$(BIN)/snakemake report --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG))
	$(BIN)/python -m relstab.report.archive $(RESULTS) relstab-$(notdir $(RESULTS)).zip $(if $(LICENSE),--license $(LICENSE))

# config.yaml and its JSON schema, for editors, from the models in src/relstab/config.
schema: install
	$(BIN)/python -m relstab.config

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
