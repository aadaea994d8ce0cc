# Every target works on a fresh clone: the virtual environment is created on demand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The version of PyTorch the tests are run with, in the build that pip's index offers: that of PyPI for Linux on x86 has
# CUDA. From another index, for instance the smaller build for CPUs:
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
TORCH_FLAGS := $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)")
STAMP := $(VENV)/.installed

.PHONY: install train test test-fast test-faults soak format lint type check compat learning bench bench-quick bench-ued bench-gpu \
	docs-reference clean

install: $(STAMP)

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH_FLAGS) "$(TORCH)"
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $(STAMP)

# --- the two commands of the README ---

TRAIN_DIR ?= train_dir
EXPERIMENT ?= cartpole

CARTPOLE_FLAGS := --env=CartPole-v1 --seed=1 --device=cpu --num_workers=2 --num_envs_per_worker=8 --worker_num_splits=2 \
	--use_rnn=False --encoder_mlp_layers 64 64 --nonlinearity=tanh --rollout=128 --batch_size=512 \
	--num_batches_per_epoch=4 --num_epochs=6 --learning_rate=0.001 --lr_schedule=linear_decay \
	--exploration_loss_coeff=0.0 --ppo_clip_ratio=0.2 --max_grad_norm=0.5 --value_bootstrap=True \
	--train_for_env_steps=250000

train: $(STAMP)
	$(BIN)/python -m sf_examples.train_gym_env $(CARTPOLE_FLAGS) --train_dir=$(TRAIN_DIR) --experiment=$(EXPERIMENT)
	$(BIN)/python -m sample_factory.enjoy --env=CartPole-v1 --train_dir=$(TRAIN_DIR) --experiment=$(EXPERIMENT) \
		--no_render --max_num_episodes=100

test: $(STAMP)
	$(BIN)/python -m pytest -q tests -m "not soak and not faults"

# --- development ---

test-fast: $(STAMP)
	$(BIN)/python -m pytest -q tests/unit tests/api

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(STAMP)
	$(BIN)/mypy

check: lint type test-fast

# Every row of the fault matrix: signals, deaths, full disks, broken files. Minutes.
test-faults: $(STAMP)
	mkdir -p build
	$(BIN)/python -m pytest -q tests --fault-matrix --junitxml=build/faults.xml
	$(BIN)/python -m benchmarks.fault_table build/faults.xml

# Minutes: runs that are killed again and again.
soak: $(STAMP)
	$(BIN)/python -m pytest -q tests/soak -m soak

# Hours: every training mode and kind of task by several seeds. Goes on where it was interrupted.
learning: $(STAMP)
	$(BIN)/python -m benchmarks.learning

# Experiments move between Sample Factory 2 and here, in both directions; needs the published wheel in its own environment.
SF2_VENV ?= .venv-sf2
SF2_STAMP := $(SF2_VENV)/.installed

$(SF2_STAMP):
	$(PYTHON) -m venv $(SF2_VENV)
	$(SF2_VENV)/bin/pip install --quiet $(TORCH_FLAGS) "$(TORCH)"
	$(SF2_VENV)/bin/pip install --quiet sample-factory==2.1.1 "gymnasium==0.29.1" "numpy<2"
	touch $(SF2_STAMP)

compat: $(STAMP) $(SF2_STAMP)
	$(BIN)/python -m tests.compat.against_sample_factory_2 --original=$(SF2_VENV)/bin/python

# Throughput next to the original and to other libraries, each in an environment of its own: an hour and a half.
PEERS_VENV ?= .venv-peers
PEERS_STAMP := $(PEERS_VENV)/.installed
PUFFERLIB_VENV ?= .venv-pufferlib
PUFFERLIB_STAMP := $(PUFFERLIB_VENV)/.installed
# The libraries an environment is made of are the same on all sides: CartPole of Gymnasium 1.x costs almost twice as much.
SAME_LIBRARIES := "gymnasium==0.29.1" "numpy<2" ale-py
BENCH_VENV ?= .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
BENCH := $(BENCH_VENV)/bin/python
SF2_BENCH_STAMP := $(SF2_VENV)/.installed-bench
ORIGINAL := $(abspath $(SF2_VENV))/bin/python
BENCH_WORKLOADS ?= all
BENCH_PAIRS ?= 3
BENCH_SECONDS ?= 30

$(BENCH_STAMP): setup.py
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet $(TORCH_FLAGS) "$(TORCH)"
	$(BENCH_VENV)/bin/pip install --quiet -e ".[bench]" $(SAME_LIBRARIES)
	touch $(BENCH_STAMP)

$(SF2_BENCH_STAMP): $(SF2_STAMP)
	$(SF2_VENV)/bin/pip install --quiet $(SAME_LIBRARIES)
	touch $(SF2_BENCH_STAMP)

$(PEERS_STAMP):
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip install --quiet $(TORCH_FLAGS) "$(TORCH)"
	$(PEERS_VENV)/bin/pip install --quiet stable-baselines3 $(SAME_LIBRARIES)
	touch $(PEERS_STAMP)

$(PUFFERLIB_STAMP):
	$(PYTHON) -m venv $(PUFFERLIB_VENV)
	$(PUFFERLIB_VENV)/bin/pip install --quiet $(TORCH_FLAGS) "$(TORCH)"
	$(PUFFERLIB_VENV)/bin/pip install --quiet pufferlib==2.0.2
	touch $(PUFFERLIB_STAMP)

bench: $(BENCH_STAMP) $(SF2_BENCH_STAMP) $(PEERS_STAMP) $(PUFFERLIB_STAMP)
	$(BENCH) -m benchmarks.compare --original=$(ORIGINAL) --workloads $(BENCH_WORKLOADS) \
		--pairs=$(BENCH_PAIRS) --seconds=$(BENCH_SECONDS) --limits --save
	$(BENCH) -m benchmarks.compare --original=$(ORIGINAL) --workloads W1 W1s W1z_image W1d64 W4_8192 Pong --omp=unset \
		--pairs=1 --seconds=$(BENCH_SECONDS) --limits --save
	$(BENCH) -m benchmarks.peers --peers_python=$(PEERS_VENV)/bin/python \
		--pufferlib_python=$(PUFFERLIB_VENV)/bin/python --rounds=$(BENCH_PAIRS) --save
	$(BENCH) -m benchmarks.scaling --original=$(ORIGINAL) --seconds=$(BENCH_SECONDS) --save
	$(BENCH) -m benchmarks.learner_step --original=$(ORIGINAL) --save
	$(BENCH) -m benchmarks.startup --original=$(ORIGINAL)
	$(BENCH) -m benchmarks.memory --original=$(ORIGINAL)
	$(BENCH) -m benchmarks.inference_latency
	$(BENCH) -m benchmarks.report

# Minutes: two workloads, one pair each; prints and writes nothing.
bench-quick: $(BENCH_STAMP) $(SF2_STAMP)
	$(BENCH) -m benchmarks.compare --original=$(ORIGINAL) --workloads W1 W1s --pairs=1 --seconds=20

# Unsupervised environment design next to minimax, which lives in an environment of its own: hours.
MINIMAX_VENV ?= .venv-minimax
MINIMAX_STAMP := $(MINIMAX_VENV)/.installed
MINIMAX := $(abspath $(MINIMAX_VENV))/bin/python
UED_SEEDS ?= 5

# It needs Python 3.11 or older: make PYTHON=python3.11 bench-ued
$(MINIMAX_STAMP):
	$(PYTHON) -m venv $(MINIMAX_VENV)
	$(MINIMAX_VENV)/bin/pip install --quiet jax==0.4.31 jaxlib==0.4.31 flax==0.8.5 optax==0.2.3 chex==0.1.86 \
		numpy==1.25.2 scipy==1.11.4 tensorflow_probability==0.23.0 pandas==1.5.3 minimax-lib==0.2.0
	touch $(MINIMAX_STAMP)

bench-ued: $(BENCH_STAMP) $(MINIMAX_STAMP)
	$(BENCH) -m benchmarks.ued_parity --minimax=$(MINIMAX) --size=small --seeds=$(UED_SEEDS)
	$(BENCH) -m benchmarks.ued_parity --minimax=$(MINIMAX) --size=full --methods dr --seeds=$(UED_SEEDS)
	$(BENCH) -m benchmarks.ued_speed --minimax=$(MINIMAX)
	$(BENCH) -m benchmarks.ued_learning
	$(BENCH) -m benchmarks.ued_report

# On a machine with a GPU. minimax needs a JAX that finds the GPU: MINIMAX=<its interpreter>, see
# benchmarks/newer_jax.
bench-gpu: $(STAMP) $(BENCH_STAMP) $(SF2_BENCH_STAMP)
	$(BIN)/python -m pytest -q tests/gpu
	$(BENCH) -m benchmarks.learner_step --original=$(ORIGINAL) --device=gpu --vtrace 0 --epochs 1 --threads 1
	$(BENCH) -m benchmarks.compare --original=$(ORIGINAL) --workloads W4_cuda_1024 W4_cuda_8192 --pairs=1 --seconds=20
	$(BENCH) -m benchmarks.compare --original=$(ORIGINAL) --workloads W3 --pairs=1 --seconds=20 --limits
	$(BENCH) -m benchmarks.ued_speed --minimax=$(MINIMAX) --device=cuda --num_levels 32 1024 --workloads dr plr_update
	$(BENCH) -m benchmarks.ued_report

docs-reference: $(STAMP)
	$(BIN)/python -m sample_factory.cfg.flags.docs --write
	$(BIN)/python -m sample_factory.ued.config.docs --write

clean:
	rm -rf $(VENV) $(SF2_VENV) $(BENCH_VENV) $(PEERS_VENV) $(PUFFERLIB_VENV) $(MINIMAX_VENV) build dist *.egg-info
