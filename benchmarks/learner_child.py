"""One implementation of ``Learner.train`` on a canned batch, told by lines on the standard input how often to run.

Works with this package and with ``sample-factory==2.1.1``: public names only. The first argument is a JSON list of
flags, the second a JSON object with the observation shape, its dtype and the number of actions. Answers ``ready`` and
then, for every line with a number of iterations, a JSON object: seconds, CPU seconds and SGD steps.
"""

import contextlib
import json
import os
import sys
import tempfile
import time

# The wheel reads files with a default of torch.load that newer versions of PyTorch changed.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

import gymnasium as gym
import numpy as np
import torch

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.model_sharing import ParameterServer
from sample_factory.algo.utils.shared_buffers import alloc_trajectory_tensors
from sample_factory.algo.utils.torch_utils import init_torch_runtime
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.model.model_utils import get_rnn_size

EPISODE_STEPS = 40  # mean length of the episodes in the batch


def make_learner(flags, problem, train_dir):
    argv = ["--env=canned", "--experiment=canned", f"--train_dir={train_dir}", "--device=cpu", "--seed=1"]
    # Serial: nothing is shared, so that learning alone is measured. No summaries, as in most iterations of a run.
    argv += ["--serial_mode=True", "--async_rl=False", *flags]
    parser, _ = parse_sf_args(argv)
    cfg = parse_full_cfg(parser, argv)
    obs = gym.spaces.Box(0, 255, tuple(problem["shape"]), np.dtype(problem["dtype"]).type)
    env_info = EnvInfo(
        obs_space=gym.spaces.Dict(obs=obs),
        action_space=gym.spaces.Discrete(problem["num_actions"]),
        num_agents=1,
        gpu_actions=False,
        gpu_observations=False,
        action_splits=None,
        all_discrete=True,
        frameskip=1,
    )
    if "OMP_NUM_THREADS" not in os.environ:
        # As in a learner's own process, which the original gives one thread.
        init_torch_runtime(cfg)
    versions = torch.zeros([1], dtype=torch.int32)
    learner = Learner(cfg, env_info, versions, 0, ParameterServer(0, versions, True))
    learner.init()
    if "OMP_NUM_THREADS" not in os.environ:
        use_threads_of_a_learner_process(cfg, learner)
    return learner, cfg, env_info


def use_threads_of_a_learner_process(cfg, learner):
    """Here a learner chooses, knowing how many processes work beside it: none, that is what is measured."""
    try:
        from sample_factory.algo.utils.thread_counts import choose_num_threads, flops_per_sample, num_usable_cores
    except ImportError:
        return  # the original does not choose
    flops = 3.0 * flops_per_sample(learner.actor_critic, learner.env_info.obs_space) * cfg.batch_size
    num_threads = choose_num_threads(flops, num_usable_cores(), busy_processes=0)
    torch.set_num_threads(num_threads)
    if num_threads == 1:
        from sample_factory.algo.utils.row_threads import set_row_threads
        from sample_factory.algo.utils.thread_counts import num_row_threads

        set_row_threads(num_row_threads(num_usable_cores(), learners=1))


def fill(batch, cfg, num_actions, generator):
    """Trajectories of a policy close to the initial one: episodes end, time limits exist, everything is valid."""
    shape = batch["rewards"].shape
    obs = batch["obs"]["obs"]
    obs.copy_(
        torch.rand(obs.shape, generator=generator) * 255
        if obs.dtype == torch.uint8
        else torch.randn(obs.shape, generator=generator)
    )
    logits = torch.randn(batch["action_logits"].shape, generator=generator) * 0.1
    log_probs = torch.log_softmax(logits, dim=-1)
    actions = torch.randint(num_actions, (*shape, 1), generator=generator)
    batch["action_logits"].copy_(logits)
    batch["actions"].copy_(actions.reshape(batch["actions"].shape))
    batch["log_prob_actions"].copy_(log_probs.gather(-1, actions).squeeze(-1))
    batch["values"].copy_(torch.randn(batch["values"].shape, generator=generator) * 0.3)
    batch["rnn_states"].copy_(torch.randn(batch["rnn_states"].shape, generator=generator) * 0.1)
    batch["rewards"].copy_(torch.randn(shape, generator=generator))
    dones = torch.rand(shape, generator=generator) < 1.0 / EPISODE_STEPS
    batch["dones"].copy_(dones)
    batch["time_outs"].zero_()
    batch["policy_id"].zero_()
    batch["valids"].fill_(1)


def main():
    flags, problem = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as train_dir, contextlib.redirect_stdout(sys.stderr):
        learner, cfg, env_info = make_learner(flags, problem, train_dir)
        num_rows = cfg.num_batches_per_epoch * cfg.batch_size // cfg.rollout
        batch = alloc_trajectory_tensors(env_info, num_rows, cfg.rollout, get_rnn_size(cfg), learner.device, False)
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            # The same batch every time: with the weights of a few hundred steps it would be far off the policy.
            fill(batch, cfg, problem["num_actions"], torch.Generator().manual_seed(0))
            seconds = cpu_seconds = 0.0
            first_step = learner.train_step
            for _ in range(int(line)):
                batch["policy_version"].fill_(learner.train_step)
                learner.last_summary_time = time.time()
                wall, cpu = time.perf_counter(), time.process_time()
                learner.train(batch)
                if cfg.device == "gpu":
                    torch.cuda.synchronize()
                cpu_seconds += time.process_time() - cpu
                seconds += time.perf_counter() - wall
            steps = learner.train_step - first_step
            result = {"sec": seconds, "cpu_sec": cpu_seconds, "steps": steps, "threads": torch.get_num_threads()}
            print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
