# Everything here sets itself up: on Debian and Ubuntu a software Vulkan driver is installed where there is no driver.
# Needed beforehand: Rust (https://rustup.rs), and on macOS Xcode's command line tools.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test test-stacks setup lint-tools

help:
	@echo 'make demo    build, and ask the model in models/ a question'
	@echo 'make test    formatting, lints, documentation and all tests'
	@echo 'make test-stacks   every kernel on other drivers, other compilers, other targets and in a browser (Debian only;'
	@echo '             needs Python 3 and Node, which it installs)'
	@echo '             STAGES="gl tint" picks some of: dxc lavapipe mesa swiftshader browser translations tint gl targets'
	@echo 'make setup   only what demo and test need from the system: a C linker and a Vulkan driver'

setup:
	@sh tools/setup.sh

demo: setup
	$(CARGO) build --release
	$(TARGET)/release/ferrum-wgpu run models/demo-q4_k_m.gguf -p "What is the capital of France?" --temp 0

test: setup lint-tools
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	$(CARGO) clippy --lib --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps
	$(CARGO) test

test-stacks: setup
	@tools/stacks/run.sh $(STAGES)

lint-tools:
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy
