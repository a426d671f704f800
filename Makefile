# make demo | test | lint | clean        another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
OPEN := $(if $(filter Darwin,$(shell uname)),open,xdg-open)

.PHONY: help demo test lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    train on the embedded digits for under 3 minutes; write demo.png, .webp and .html"
	@echo "make test    the tests (no download, no GPU)"
	@echo "make lint    ruff check and ruff format --check"
	@echo "make clean   remove what demo and test wrote; .venv and your runs stay"

# A stamp is touched only after its installation succeeded, so an interrupted one is repeated.
.venv/.requirements: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.requirements-dev: requirements-dev.txt requirements-extras.txt .venv/.requirements
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# One thread: networks this small gain little by a second, and lose much where another program wants its core.
demo: .venv/.requirements
	OMP_NUM_THREADS=1 .venv/bin/python gan_mnist.py --preset digits --log_name demo --overwrite
	OMP_NUM_THREADS=1 .venv/bin/python -m tools.sample runs/demo --n 80 --out demo.png
	OMP_NUM_THREADS=1 .venv/bin/python -m tools.interpolate runs/demo --grid 10x4 --out demo.webp
	OMP_NUM_THREADS=1 .venv/bin/python -m tools.report runs/demo --out demo.html
	@echo
	@echo "digits that it drew, a column a class:      $(OPEN) '$(CURDIR)/demo.png'"
	@echo "digits that turn into others of the class:  $(OPEN) '$(CURDIR)/demo.webp'"
	@echo "the report, how training went:              $(OPEN) '$(CURDIR)/demo.html'"

# A worker a core, of one thread each; worksteal keeps the tests of a file together until a worker has nothing left.
test: .venv/.requirements-dev
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal -m "not slow and not gpu"

lint: .venv/.requirements-dev
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .

clean:
	rm -rf runs/demo demo.png demo.webp demo.html .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
