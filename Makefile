# Everything a newcomer needs: `make demo` and `make test`. Both install what they need first.
.PHONY: help setup demo test e2e check format clean

help: ## list these targets
	@awk -F':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install Debian packages (root or sudo) and the Python environment
	@scripts/setup

demo: setup ## one VM, three hosts, one of them tampered with
	@scripts/as-root .venv/bin/sealvm demo

test: setup ## all tests, with real TPMs (swtpm) and real guests (QEMU)
	@scripts/as-root .venv/bin/python -m pytest -m ""

e2e: setup ## a host that really boots: OVMF measures it, it enrolls from inside, and opens a package
	@scripts/as-root .venv/bin/python -m pytest -m "" -s tests/measured

check: setup ## format, lint, types, import contracts, quick tests
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/python -m pytest -n 2 -m "not slow"

format: setup ## apply the formatter and the linter's fixes
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean: ## remove the lab, caches and the environment
	@rm -rf .venv .cache .sealvm .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
