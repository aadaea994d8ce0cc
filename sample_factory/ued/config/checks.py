"""Rules across flags: which combinations cannot work. Checked before anything is created."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sample_factory.ued.config.lists import student_indices

Values = Mapping[str, Any]  # active flags under their full names
Check = Callable[[Values], Iterator[str]]

TWO_STUDENT_SCORES = ("relative_regret", "mean_relative_regret")
POPULATION_SCORES = (*TWO_STUDENT_SCORES, "population_regret")
NEGATIVE_SCORES = ("max_mc", "neg_return")
USAGE_ERROR = 2
"""Exit code of a command whose flags are wrong."""
MAX_SEED = 2**63 - 8
"""Of commands that hand the seed, and the few numbers behind it, to PyTorch."""
_DEVICE = re.compile(r"cpu|(cuda|gpu)(:\d+)?")


def problems_of(values: Values) -> list[str]:
    """All broken rules, each with flag, value and repair."""
    checks: tuple[Check, ...] = (
        _paths,
        _render,
        _paired,
        _plr_score,
        _replay_happens,
        _score_of_ensemble,
        _mutation,
        _search,
        _devices,
        _student_minibatches,
        _teacher_minibatches,
        _cores,
        _embeddings,
        _maze_levels,
        _maze_teacher,
        _evaluation,
    )
    return [problem for check in checks for problem in check(values)]


def remarks_on(values: Values) -> list[str]:
    """What minimax accepts and is accepted here, too, but does nothing and was hardly meant."""
    return [*_schedule_without_effect(values), *_mutations_without_effect(values)]


def _schedule_without_effect(v: Values) -> Iterator[str]:
    lr, final, steps = v["lr"], v["lr_final"], v["lr_anneal_steps"]
    is_constant = final is None or final == lr
    if steps and is_constant:
        yield f"--lr_anneal_steps={steps} has no effect without --lr_final: the learning rate stays {lr:g}"
    # The teacher may take over the final rate, with a number of steps of its own.
    if not is_constant and not steps and not v.get("teacher_lr_anneal_steps"):
        yield f"--lr_final={final:g} has no effect without --lr_anneal_steps: the learning rate stays {lr:g}"


def _mutations_without_effect(v: Values) -> Iterator[str]:
    if v.get("plr_n_mutations") and v.get("plr_mutation_fn") is None:
        yield (
            f"--plr_n_mutations={v['plr_n_mutations']} has no effect without --plr_mutation_fn: no levels are edited; "
            "for ACCEL add for example --plr_mutation_fn=default"
        )


def _paths(v: Values) -> Iterator[str]:
    if v["xpid"] in (".", "..") or "/" in v["xpid"] or not v["xpid"]:
        yield f"--xpid={v['xpid']}: must be the name of a folder; use --log_dir for the place of it"
    if not v["log_dir"]:  # a variable of the shell that is not set
        yield "--log_dir=: must be a folder; write --log_dir=. for the current one"


def _render(v: Values) -> Iterator[str]:
    if v["render"]:
        yield (
            "--render=True: there is no live window; leave the flag out and save pictures of levels with "
            "--level_grid_interval"
        )


def _paired(v: Values) -> Iterator[str]:
    if v["train_runner"] != "paired":
        return
    if v["teacher_model_name"] is None:
        yield "--train_runner=paired needs a teacher; add --teacher_model_name=default_teacher_cnn"
    score, num_students = v["ued_score"], v["n_students"]
    if score in TWO_STUDENT_SCORES and num_students != 2:
        yield (
            f"--ued_score={score} compares exactly two students, but --n_students={num_students}; "
            "set --n_students=2 or take --ued_score=population_regret"
        )
    if score == "max_mc":
        yield (
            "--ued_score=max_mc needs the returns stored in a level buffer, which --train_runner=paired does not have; "
            "take --ued_score=relative_regret"
        )


def _plr_score(v: Values) -> Iterator[str]:
    if v["train_runner"] != "plr":
        return
    score = v["ued_score"]
    if score in POPULATION_SCORES:
        yield (
            f"--ued_score={score} compares students, but --train_runner=plr scores the levels of each student alone; "
            "take for example --ued_score=max_mc"
        )
    if score in NEGATIVE_SCORES and not v["plr_use_score_ranks"]:
        yield (
            f"--ued_score={score} can be negative, which weights in proportion to it cannot; "
            "set --plr_use_score_ranks=True"
        )


def _replay_happens(v: Values) -> Iterator[str]:
    if v["train_runner"] != "plr" or v["plr_use_parallel_eval"]:
        return
    if v["plr_use_robust_plr"] and v["plr_replay_prob"] == 0:
        yield (
            "--plr_replay_prob=0 with --plr_use_robust_plr=True: students learn from replayed levels only, so this run "
            "would never end; set one of them to another value"
        )


def _score_of_ensemble(v: Values) -> Iterator[str]:
    if v.get("ued_score") == "value_disagreement" and v.get("student_value_ensemble_size", 2) < 2:
        yield (
            "--ued_score=value_disagreement compares value heads, but --student_value_ensemble_size=1; "
            "set for example --student_value_ensemble_size=5"
        )


def _mutation(v: Values) -> Iterator[str]:
    if v.get("plr_mutation_fn") is None:
        return
    if v["plr_n_mutations"] < 1:
        yield "--plr_n_mutations=0 with --plr_mutation_fn: mutants would equal their parents; set for example 20"
    criterion, size = v["plr_mutation_criterion"], v["plr_mutation_subsample_size"]
    if criterion == "batch" or v["plr_use_parallel_eval"]:  # parallel evaluation mutates the whole batch
        return
    per_device = v["n_parallel"] // v["n_devices"]
    if size < 1 or per_device % size:
        yield (
            f"--plr_mutation_criterion={criterion} repeats --plr_mutation_subsample_size={size} parents to fill "
            f"{per_device} levels per device (--n_parallel / --n_devices); the size must be a divisor of that"
        )


def _search(v: Values) -> Iterator[str]:
    if v["train_runner"] != "sfl":
        return
    num_tried = v["sfl_n_batches"] * v["sfl_batch_size"]
    if v["sfl_buffer_size"] > num_tried:
        yield (
            f"--sfl_buffer_size={v['sfl_buffer_size']} is more than the {num_tried} levels that are looked at; "
            "lower it, or raise --sfl_n_batches or --sfl_batch_size"
        )


def _devices(v: Values) -> Iterator[str]:
    if v["n_parallel"] % v["n_devices"]:
        yield (f"--n_parallel={v['n_parallel']} cannot be split over --n_devices={v['n_devices']}; make it a multiple")
    if not is_device(v["device"]):
        yield f"--device={v['device']}: must be cpu, cuda or cuda:<index>"
    elif ":" in v["device"] and v["n_devices"] > 1:
        yield f"--device={v['device']} names one GPU, but --n_devices={v['n_devices']}; set --device=cuda"


def _student_minibatches(v: Values) -> Iterator[str]:
    envs = v["n_parallel"] // v["n_devices"] * v["n_eval"]
    yield from _divisible(v, "student", envs, v["n_rollout_steps"])


def _teacher_minibatches(v: Values) -> Iterator[str]:
    # The length of a teacher's episode is known to its environment only; it is checked when the learner is made.
    if v.get("teacher_recurrent_arch") is not None:
        yield from _divisible(v, "teacher", v["n_parallel"] // v["n_devices"], 1)


def _divisible(v: Values, agent: str, envs: int, num_steps: int) -> Iterator[str]:
    minibatches = v[f"{agent}_ppo_n_minibatches"]
    recurrent = v.get(f"{agent}_recurrent_arch") is not None
    items = envs if recurrent else envs * num_steps
    what = "environments" if recurrent else "transitions"
    if items % minibatches:
        yield (
            f"--{agent}_ppo_n_minibatches={minibatches} does not divide the {items} {what} of a device; "
            "change it, --n_parallel or --n_eval"
        )


def _cores(v: Values) -> Iterator[str]:
    for agent in ("student", "teacher"):
        arch, dim = v.get(f"{agent}_recurrent_arch"), v.get(f"{agent}_recurrent_hidden_dim")
        if arch is None or dim is None:
            continue
        if dim < 1:
            yield f"--{agent}_recurrent_arch={arch} needs a width; set for example --{agent}_recurrent_hidden_dim=256"
        elif arch == "s5" and dim % (2 * v[f"{agent}_s5_n_blocks"]):  # a block consists of conjugate pairs
            yield (
                f"--{agent}_recurrent_hidden_dim={dim} must be a multiple of "
                f"2 * --{agent}_s5_n_blocks={v[f'{agent}_s5_n_blocks']}; change one of them"
            )


def _embeddings(v: Values) -> Iterator[str]:
    rows = v.get("student_n_scalar_embeddings", 0)
    if rows > 0 and v["student_scalar_embed_dim"] == 0:
        yield (
            f"--student_scalar_embed_dim=0 with --student_n_scalar_embeddings={rows}: an embedding needs a width; set "
            "both to 0 for a network that does not see directions"
        )


def _maze_levels(v: Values) -> Iterator[str]:
    if v.get("maze_agent_view_size", 1) % 2 == 0:
        yield f"--maze_agent_view_size={v['maze_agent_view_size']}: must be odd; for example 5 (the default)"
    if "maze_height" not in v:  # a maze with a size of its own
        return
    height, width = v["maze_height"], v["maze_width"]
    room = height * width - 2
    for flag in ("maze_n_walls", "maze_ued_n_walls"):
        if v.get(flag, 0) > room:
            yield (
                f"--{flag}={v[flag]}: with an agent and a goal a maze of --maze_height={height} and "
                f"--maze_width={width} has room for {room} walls; lower it, or enlarge the maze"
            )


def _maze_teacher(v: Values) -> Iterator[str]:
    if v.get("maze_ued_first_wall_pos_sets_budget") and v["maze_ued_fixed_n_wall_steps"]:
        yield (
            "--maze_ued_first_wall_pos_sets_budget=True excludes --maze_ued_fixed_n_wall_steps=True: a fixed number of "
            "walls needs no budget"
        )
    elif v.get("maze_ued_first_wall_pos_sets_budget") and v["maze_ued_n_walls"] == 0:
        yield (
            "--maze_ued_first_wall_pos_sets_budget=True needs a first wall, but --maze_ued_n_walls=0; set for example "
            "--maze_ued_n_walls=25"
        )


def _evaluation(v: Values) -> Iterator[str]:
    try:
        student_indices(v["test_agent_idxs"], v["n_students"])
    except ValueError as exc:
        yield str(exc)


def is_device(name: str) -> bool:
    """Whether this is how devices are written."""
    return _DEVICE.fullmatch(name) is not None


def torch_device(name: str) -> str:
    """A device as PyTorch writes it: ``gpu`` is the word for ``cuda`` of the asynchronous trainer."""
    return name.replace("gpu", "cuda")
