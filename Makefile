# make demo    five nodes on this machine write, part, meet again and agree (installs run-time dependencies only)
# make test    everything that must hold before a change lands: ruff, mypy, documentation, tests; as root on Debian it
#              installs the packages of tests/debian-packages, elsewhere it says which of them are missing
# make check   the same without the tests
# make proof   what takes longer: simulated worlds, kills, faults and a million inputs, all from seeds; each has its budget
# make soak    the same for hours, with new seeds: WORLDS=20000 SEED=1000 INPUTS=20000000 KILLS=5000
# make mutants would the tests notice? SAMPLE=200 SEED=0 changes of session/, replication/ and the codecs, one at a time
# make coverage  the tests with every line and branch counted, also in the processes that they start
# make bench   the benchmarks; QUICK=1 for a short run, OUT=file.json for the figures as JSON
# make bench-peers  beside asyncio, pyzmq and py-libp2p, which get an environment of their own
# make lock    write requirements/ anew: the newest versions that pyproject.toml admits, with their hashes
# make clean   remove the virtual environments and what was built
#
# Each environment is made once and again only when pyproject.toml changes.

PYTHON ?= python3
JOBS ?= 2
# Many tests wait for processes: twice as many as cores keep two cores busy.
TEST_JOBS ?= 4
# The longest test takes a few seconds. One that is not over after so long has failed: what its threads are at is shown,
# its process is ended, and the tests after it run in another one.
TEST_S_MAX ?= 180
EACH_WITHIN = -o faulthandler_timeout=$(TEST_S_MAX) -o faulthandler_exit_on_timeout=true
PIP = -m pip install --quiet --disable-pip-version-check --no-input

WORLDS ?= 20000
INPUTS ?= 20000000
KILLS ?= 5000
GUIDED ?= 500000
SEED ?= 1000

# Where it is set, each of the processes that the tests start would compile every module of ours anew.
export PYTHONDONTWRITEBYTECODE =

WITHIN = timeout --foreground
PROVE = .venv/bin/python -m pytest -q -p no:xdist -p no:cacheprovider

.PHONY: demo test check lint types docs modules lock tests programs bench bench-peers clean python proof proof-worlds proof-kills proof-inputs proof-doors mutants soak soak-guided coverage
.DEFAULT_GOAL := test

demo: .venv-demo/.installed
	.venv-demo/bin/p2p demo

test: lint
	@$(MAKE) --no-print-directory -j2 types docs modules
	@$(MAKE) --no-print-directory tests

# The documentation is built while the types are checked.
check: lint
	@$(MAKE) --no-print-directory -j2 types docs

lint: .venv/.installed
	.venv/bin/ruff check p2p p2p_command.py http_control benchmarks tests docs

types: .venv/.installed
	.venv/bin/mypy

docs: .venv/.installed
	.venv/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# pytest rewrites the asserts of each module once: without this, each of its processes would do so for all at their start.
modules: .venv/.installed
	@.venv/bin/python -m pytest -q -p no:xdist --collect-only >.venv/modules.log || { cat .venv/modules.log; exit 1; }

tests: .venv/.installed programs
	.venv/bin/python -m pytest -q -n $(TEST_JOBS) --dist worksteal $(EACH_WITHIN)

# What each suite may take on two cores that have nothing else to do; six to seven times that ends it. Those that use one core
# each run side by side, so it is 5.5 minutes in all.
proof: .venv/.installed programs
	@$(MAKE) --no-print-directory proof-worlds
	@$(MAKE) --no-print-directory -j2 proof-inputs proof-kills proof-doors

proof-worlds: .venv/.installed
	@echo 'simulated worlds: 180 s are meant for them'
	$(WITHIN) 1080 .venv/bin/python -m p2p.testing --seed 0 --worlds 120 --nodes 7 --seconds 120 --jobs $(JOBS) --quiet

proof-kills: .venv/.installed
	@echo 'kills and flipped bits: 150 s are meant for them'
	PROOF_FLIPS=200 $(WITHIN) 900 $(PROVE) -s tests/proof/kills.py tests/crash/test_flipped_bytes.py

proof-inputs: .venv/.installed
	@echo 'inputs, handshakes and faults: 150 s are meant for them'
	$(WITHIN) 660 $(PROVE) tests/proof/fuzz.py tests/proof/noise.py tests/proof/faults.py tests/proof/traces.py tests/proof/many.py tests/proof/mesh.py
	PROOF_ALL=1 $(WITHIN) 330 $(PROVE) -m sampled tests/unit/store

proof-doors: .venv/.installed
	@echo 'who comes in, by discovery, with broken handshakes and by HTTP: 100 s are meant for them'
	MANY_NODES=50 $(WITHIN) 200 $(PROVE) tests/contract/test_discovery.py tests/contract/test_leads.py -k many_nodes
	HOSTILE_IN_MORE_WAYS=1 $(WITHIN) 200 $(PROVE) tests/hostile/test_node_strangers.py -k 'every_offset or any_byte'
	HTTP_MUTATIONS=5000 HTTP_EXAMPLES=60 $(WITHIN) 300 $(PROVE) tests/http/test_mutated_connections.py tests/http/test_description.py

soak: .venv/.installed programs
	.venv/bin/python -m p2p.testing --seed $(SEED) --worlds $(WORLDS) --jobs $(JOBS) --quiet
	PROOF_SEED=$(SEED) PROOF_STORE_KILLS=$(KILLS) PROOF_NODE_KILLS=300 PROOF_FLIPS=5000 $(PROVE) -s tests/proof/kills.py tests/crash/test_flipped_bytes.py
	PROOF_SEED=$(SEED) PROOF_INPUTS=$(INPUTS) PROOF_HANDSHAKES=50000 $(PROVE) tests/proof/fuzz.py tests/proof/noise.py
	HYPOTHESIS_PROFILE=soak .venv/bin/python -m pytest -q -n $(JOBS) tests/unit tests/contract
	@$(MAKE) --no-print-directory soak-guided

# Where atheris cannot be installed this is left out, and said.
soak-guided: .venv/.installed
	test -x .venv-guided/bin/python || $(PYTHON) -m venv .venv-guided
	.venv-guided/bin/python $(PIP) --require-hashes -r requirements/dev.txt
	.venv-guided/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	if .venv-guided/bin/python $(PIP) 'atheris>=3,<4'; \
	then .venv-guided/bin/python -m tests.proof.guided --runs $(GUIDED) --seed $(SEED); \
	else echo 'atheris cannot be installed here: no inputs are led by coverage'; fi

# Small changes of the code, and whole bugs, that the tests must notice; see tests/proof/mutants.py. About 3 s each.
mutants: .venv/.installed
	.venv/bin/python -m tests.proof.mutants --planted
	.venv/bin/python -m tests.proof.mutants --sample $(or $(SAMPLE),200) --seed $(SEED)

# Floors 0 to 3 (docs/architecture.md).
PURE = p2p/errors.py,p2p/limits.py,p2p/ids.py,p2p/text.py,p2p/binary.py,p2p/framing.py,p2p/envelope.py,p2p/msg.py,p2p/pack.py,$\
  p2p/strict_json.py,p2p/crypto/*,p2p/policy/*,p2p/session/*,p2p/replication/*,p2p/relay/*,p2p/registry/*

# The profile draws the same examples every time, so that a branch is not counted in one run and missing in the next.
# Left out: what counts writes to a file system that takes no more would count there, too.
coverage: .venv/.installed programs
	rm -f .coverage .coverage.*
	HYPOTHESIS_PROFILE=ci .venv/bin/coverage run -m pytest -q -n $(JOBS) $(EACH_WITHIN) \
	  --deselect tests/cli/test_wal_tools.py::test_T61_a_disk_that_takes_no_more_is_one_line
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report --fail-under=95
	.venv/bin/coverage report --fail-under=100 --include='$(PURE)'

programs:
	@tests/install-debian-packages

bench: .venv/.installed
	.venv/bin/python -m benchmarks $(if $(QUICK),--quick) $(if $(OUT),--out $(OUT))

# One that cannot be installed here is left out, and so it is said. An environment whose making was broken off is made anew.
bench-peers: .venv/.installed | python
	@.venv-peers/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-peers
	@for peer in pyzmq libp2p; do \
	  .venv-peers/bin/python $(PIP) $$peer \
	    || echo "bench-peers: $$peer cannot be installed here, as is told above: the comparison goes on without it" >&2; \
	done
	.venv/bin/python -m benchmarks.rivals .venv-peers/bin/python $(if $(QUICK),--quick) $(if $(OUT),--out $(OUT))

# Debian's own Python 3.11 comes without ensurepip; python3-venv brings it, and Python itself where there is none.
python:
	@command -v $(PYTHON) >/dev/null 2>&1 \
	  && $(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	  || { echo 'trio-p2p needs Python 3.11 or newer with venv. On Debian 12, as root:  apt-get install -y python3-venv' >&2; \
	       exit 1; }

# Exactly the files that were seen when the lock was made: every archive is compared with its hash.
.venv/.installed .venv-demo/.installed: %/.installed: pyproject.toml requirements/dev.txt requirements/demo.txt | python
	$(PYTHON) -m venv --clear $*
	$*/bin/python $(PIP) --require-hashes -r requirements/$(if $(findstring demo,$*),demo,dev).txt
	$*/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

lock: | python
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python $(PIP) pip-tools
	for set in dev:dev demo:cli; do .venv-lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe \
	  --strip-extras --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-annotate \
	  --build-deps-for editable --extra $${set#*:} --output-file requirements/$${set%:*}.txt pyproject.toml || exit 1; done

clean:
	rm -rf .venv .venv-demo .venv-peers .venv-lock .venv-guided docs/_build .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
