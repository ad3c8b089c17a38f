# make demo: see it work.  make test: lint and all tests.  make bench: ours beside the plain versions.
# make web: the page that parses faces in the browser, served on this machine; needs npm.
# make fuzz: hostile inputs.  make kills: kills at random moments, and full disks.
# All set up a virtual environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench web fuzz kills clean

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 10) or \
		sys.exit('$(PYTHON) is Python %d.%d; give 3.10 or newer, as in: make PYTHON=python3.12 demo' % sys.version_info[:2])"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e ".[dev]"
	touch $@

demo: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo.sh

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

bench: .venv/installed
	$(BIN)/python -m benchmarks

# What the page needs beside its own files. Afterwards web/ can be put on any static host as it is.
web: web/face_parser.onnx web/sample.jpg web/vendor
	$(BIN)/python -m web.serve

web/face_parser.onnx: Deeplab_checkpoint_lite.pt | .venv/installed
	$(BIN)/python export_onnx.py --float16 --output $@

web/sample.jpg: assets/astronaut.jpg
	cp $< $@

# Three builds of the runtime, of which a browser loads one: WebGPU with JSPI, WebGPU without, and WebAssembly alone.
web/vendor: web/package-lock.json
	cd web && npm ci --ignore-scripts --no-audit --no-fund && rm -rf vendor unfinished && mkdir unfinished && \
		cd node_modules/onnxruntime-web && cp dist/ort.wasm.min.mjs dist/ort.jspi.min.mjs dist/ort.webgpu.min.mjs \
		dist/ort-wasm-simd-threaded.mjs dist/ort-wasm-simd-threaded.wasm \
		dist/ort-wasm-simd-threaded.jspi.mjs dist/ort-wasm-simd-threaded.jspi.wasm \
		dist/ort-wasm-simd-threaded.asyncify.mjs dist/ort-wasm-simd-threaded.asyncify.wasm ../../unfinished
	mv web/unfinished web/vendor
	rm -rf web/node_modules

fuzz: .venv/installed
	$(BIN)/python -m pytest -n 0 -m fuzz tests/fuzz/test_fuzz.py

kills: .venv/installed
	$(BIN)/python -m pytest -n 0 -m fuzz tests/fuzz/test_kills.py

clean:
	rm -rf web/vendor web/unfinished web/node_modules web/face_parser.onnx web/face_parser.json web/sample.jpg
	rm -rf .venv demo checkpoints/demo build *.egg-info
