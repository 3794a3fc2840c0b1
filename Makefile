# The two commands of the README, and shortcuts to what CI runs.

.PHONY: demo test setup fmt lint

setup: ## Install what is missing: Rust, Debian packages
	@scripts/setup

demo: setup ## Build, start a cluster, run the shop example in it
	@scripts/demo

test: setup ## Run every test, real containers included
	@scripts/test

fmt:
	cargo fmt --all

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
