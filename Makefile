# make demo · make app · make test · make hub · make bench · make lint · make setup, each on a fresh clone with nothing done before.
VENV := .venv
PYTHON := $(VENV)/bin/python
DEMO := runs/demo
# The oldest and the newest transformers with which a pushed model is known to load.
TRANSFORMERS := 5.6.0 5.24.0

demo: setup
	$(PYTHON) train.py recipes/easy_vqa.yaml --output_dir $(DEMO)/model --resume_from_checkpoint auto
	$(PYTHON) eval.py --model $(DEMO)/model --dataset easy_vqa --split test --output_dir $(DEMO)
	$(PYTHON) infer.py --model $(DEMO)/model --image "$$($(PYTHON) -m vqafusion.data_prep.easy_vqa 3)" \
		--question "what shape is in the image?" --output $(DEMO)/result.png
	@$(PYTHON) -c "import json; print('\neasy-VQA test accuracy:', json.load(open('$(DEMO)/metrics.json'))['overall'], '%')"
	@echo "picture: $(DEMO)/result.png, report: $(DEMO)/report.html; ask it yourself on a page: make app"

app: setup
	$(VENV)/bin/vqafusion-app $(DEMO)/model

# Two tests at a time, and each of their processes with one thread: more wait for one another.
test: setup lint
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest

# A pushed model, loaded by somebody who has only transformers, torch, Pillow and numpy.
hub: setup
	python3 -m venv .venv-hub
	.venv-hub/bin/pip install -q torch==2.13.0 pillow numpy
	for version in $(TRANSFORMERS); do \
		.venv-hub/bin/pip install -q transformers==$$version || exit 1; \
		STRANGER_PYTHON=$$PWD/.venv-hub/bin/python $(PYTHON) -m pytest tests/test_push.py -k pinned || exit 1; \
	done

# The figures of benchmarks/README.md: make bench QUESTIONS=v2_Questions_Val_mscoco.zip DATA=DIR VISION=DIR TEXT=DIR;
# what lacks its data is left out.
bench: setup
	for name in inference training exported start_up metric questions_per_image; do \
		$(PYTHON) benchmarks/$$name.py --table benchmarks/README.md || exit 1; \
	done
	$(if $(QUESTIONS),$(PYTHON) benchmarks/encoding.py --questions $(QUESTIONS) --table benchmarks/README.md)
	$(if $(DATA),$(PYTHON) benchmarks/image_states.py --data_dir $(DATA) --split minitrain2014 \
		--vision_model $(VISION) --text_model $(TEXT) --table benchmarks/README.md)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

setup: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q torch==2.13.0 -c constraints.txt
	$(VENV)/bin/pip install -q -e '.[app,onnx,test]' -c constraints.txt
	@touch $@

.PHONY: demo app test hub bench lint setup
