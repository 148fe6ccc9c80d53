# The targets install what they need. On Debian and Ubuntu this includes a software Vulkan driver if there is no driver.
# Prerequisites: Rust (https://rustup.rs), and on macOS Xcode's command line tools.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo web test test-features soak test-stacks gpu-figures setup lint-tools

help:
	@echo 'make demo    build, and ask the demo model a question'
	@echo 'make web     build the npm package (web/dist) and its page, and serve the page on this machine (needs Python 3)'
	@echo 'make test    check formatting, lints and documentation, and run the tests'
	@echo 'make test-features'
	@echo '             check the library with each set of features that applications use'
	@echo 'make soak    the long forms of the soak, stress and mutation tests'
	@echo 'make test-stacks'
	@echo '             all kernels on other drivers, compilers and targets, and in a browser (Debian only; installs Python 3'
	@echo '             and Node). STAGES="gl tint" selects stages: dxc lavapipe mesa swiftshader browser python web clients cluster'
	@echo '             translations tint gl targets gpu-compilers'
	@echo 'make gpu-figures'
	@echo '             renew the figures of real GPUs'"'"' compilers (docs/GPUS.md) and print the difference'
	@echo 'make setup   install the system packages for demo and test: a C linker and a Vulkan driver'

setup:
	@sh tools/setup.sh

demo: setup
	$(CARGO) build --release
	$(TARGET)/release/ferrum-wgpu run models/demo-q4_k_m.gguf -p "What is the capital of France?" --temp 0

web: setup
	web/build.sh
	@echo 'http://127.0.0.1:$(or $(PORT),8000)/'
	@python3 -m http.server --bind 127.0.0.1 --directory web/site $(or $(PORT),8000)

test: setup lint-tools
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --lib --no-default-features --features blocking,serde
	@# Clippy has checked the examples and benchmarks.
	@# Some tests wait for servers and for the device that they share, so there are more threads than processors.
	RUST_TEST_THREADS=$$(($$(getconf _NPROCESSORS_ONLN) + 4)) $(CARGO) test --lib --bins --test it
	$(CARGO) test --doc

# Each set of features that applications use, without the others.
test-features: setup lint-tools
	for features in '' blocking serde api constraint serve; do $(CARGO) clippy --lib --no-default-features --features "$$features" -- -D warnings || exit; done

soak: setup
	$(CARGO) test --test it -- --ignored --nocapture engine_soak:: engine_stress:: gguf_mutations:: serve_soak::

test-stacks: setup
	@tools/stacks/run.sh $(STAGES)

gpu-figures:
	@tools/stacks/run.sh gpu-figures

lint-tools:
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy
