# Two commands are enough: `make demo` and `make test`. Each sets up .venv first where it is missing.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

export OMP_NUM_THREADS ?= 1
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: demo test check install clean bench-radiomics bench-statistics bench-private-statistics bench-secure-aggregation bench-deploy bench-privacy bench-compression bench-audit bench-memory fuzz bundle hosts stock soak browser orthanc clocks

demo: $(STAMP)
	$(BIN)/fedrad demo --out demo-out --overwrite

test: $(STAMP)
	$(BIN)/pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(STAMP)

# Order matters (docs/decisions.md, "Installing"): torch by its exact version first, or a looser range of another
# package takes a build with several GB of CUDA libraries; then what pyradiomics needs to build; then pyradiomics
# without build isolation, because its setup imports numpy; then the rest, all pinned.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt numpy setuptools wheel versioneer cython
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation pyradiomics==3.0.1
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $(STAMP)

bench-radiomics: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.radiomics

bench-statistics: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.statistics

bench-secure-aggregation: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.secure_aggregation
	$(BIN)/python -m simulations.benchmarks.masked_rounds

bench-private-statistics: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.private_statistics

# Some 20 minutes of CPU time on two cores; the generated cases (three cohorts) stay in bench-privacy-out.
bench-privacy: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.privacy --write docs/privacy.md

bench-deploy: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.deploy
	$(BIN)/python -m simulations.benchmarks.rounds

bench-compression: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.compression

# The audit of docs/audit.md; what is finished stays in audit-benchmark.
bench-audit: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.audit audit-benchmark --write docs/audit.md

bench-memory: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.memory

# Decoders under random and damaged bytes, for FEDRAD_FUZZ_SECONDS (600 where it is not set).
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz

# A study between network namespaces with firewalls, a proxy, cut cables; needs root and iproute2.
hosts: $(STAMP)
	$(BIN)/pytest -n 0 tests/simulations/test_hosts.py

# A study under unmodified flower-superlink, flower-supernode and flwr run; minutes.
stock: $(STAMP)
	$(BIN)/pytest -n 0 -m stock --timeout 1200 tests/server/test_stock_flower.py

# A long study whose processes are killed and whose cables are cut at random; hours.
soak: $(STAMP)
	$(BIN)/python -m simulations.benchmarks.soak --rounds 500

# The tests of the web page drive a real Chromium, and are skipped where there is none. Debian's is enough; needs root.
browser:
	command -v chromium || (apt-get update && apt-get install --yes --no-install-recommends chromium)

# The tests of the archive's sign of life ask a real Orthanc, and are skipped where there is none. Needs root.
orthanc:
	command -v Orthanc || (apt-get update && apt-get install --yes --no-install-recommends orthanc)

# The test of a hospital whose clock is wrong sets the clock of its processes alone. Needs root.
clocks:
	ls /usr/lib*/*/faketime/libfaketimeMT.so.1 2>/dev/null || (apt-get update && apt-get install --yes --no-install-recommends libfaketime)

# Everything that a machine without internet needs, with checksums and a bill of materials.
bundle: $(STAMP)
	$(BIN)/python -m configs.deploy.bundle --out dist

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo-out
