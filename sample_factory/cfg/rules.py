"""Rules that connect several flags: what cannot work, and what works but is probably not meant.

Letters in messages and comments: W workers, V environments per worker, S splits, A agents per environment,
P policies, T rollout, B batch size, K minibatches per epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sample_factory.cfg.experiment_path import leads_outside
from sample_factory.cfg.flags import FLAGS
from sample_factory.utils.attr_dict import AttrDict

AUTO_RECURRENCE = -1


class EnvShape(Protocol):
    """The part of ``EnvInfo`` that the rules need."""

    num_agents: int


@dataclass(frozen=True)
class Rule:
    """A check over the flags it ``reads``; skipped if one of them has a broken value. Returns the problem or None."""

    reads: tuple[str, ...]
    check: Callable[[AttrDict], str | None]


@dataclass(frozen=True)
class EnvRule:
    """As ``Rule``, for checks that also need to know the environment."""

    reads: tuple[str, ...]
    check: Callable[[AttrDict, Any], str | None]


def resolve_recurrence(use_rnn: bool, with_vtrace: bool, rollout: int, recurrence: int) -> int:
    """Value of ``recurrence`` with -1 replaced: recurrent cores and V-trace work on whole rollouts."""
    if recurrence != AUTO_RECURRENCE:
        return recurrence
    return rollout if use_rnn or with_vtrace else 1


def fitting_heartbeat_interval(heartbeat_interval: float, reporting_interval: float) -> float:
    """Seconds between life signs; half the time between their checks if healthy components would look dead."""
    return heartbeat_interval if heartbeat_interval < reporting_interval else reporting_interval / 2


def _recurrence(cfg: AttrDict) -> int:
    return resolve_recurrence(cfg.use_rnn, cfg.with_vtrace, cfg.rollout, cfg.recurrence)


def _splits_divide_envs(cfg: AttrDict) -> str | None:
    envs, splits = cfg.num_envs_per_worker, cfg.worker_num_splits
    if envs % splits == 0:
        return None
    return (
        f"--num_envs_per_worker={envs} cannot be divided by --worker_num_splits={splits}; use an even number of "
        f"environments for double buffering, for example --num_envs_per_worker={splits * (envs // splits + 1)}, "
        "or --worker_num_splits=1"
    )


def _batch_holds_whole_rollouts(cfg: AttrDict) -> str | None:
    batch, rollout = cfg.batch_size, cfg.rollout
    if batch % rollout == 0:
        return None
    return (
        f"--batch_size={batch} cannot be divided by --rollout={rollout}; "
        f"for example --batch_size={rollout * max(1, round(batch / rollout))}"
    )


def _no_normalized_returns_with_vtrace(cfg: AttrDict) -> str | None:
    if not (cfg.normalize_returns and cfg.with_vtrace):
        return None
    return "--normalize_returns=True does not work with --with_vtrace=True; add --normalize_returns=False"


def _recurrence_of_rnn(cfg: AttrDict) -> str | None:
    recurrence = _recurrence(cfg)
    if not cfg.use_rnn or recurrence > 1:
        return None
    return (
        f"--recurrence={recurrence} is too short for --use_rnn=True (--rollout={cfg.rollout}); use --recurrence=-1 "
        "with a --rollout of at least 2, or --use_rnn=False"
    )


def _recurrence_of_vtrace(cfg: AttrDict) -> str | None:
    recurrence, rollout = _recurrence(cfg), cfg.rollout
    if not cfg.with_vtrace or recurrence == rollout > 1:
        return None
    return (
        f"--with_vtrace=True needs --recurrence equal to --rollout and above 1, but they are {recurrence} and "
        f"{rollout}; use --recurrence=-1 with a --rollout of at least 2"
    )


def _recurrence_divides_rollout(cfg: AttrDict) -> str | None:
    recurrence, rollout = _recurrence(cfg), cfg.rollout
    cuts_rollouts = cfg.use_rnn or cfg.num_batches_per_epoch > 1
    if not cuts_rollouts or rollout % recurrence == 0:
        return None
    return f"--rollout={rollout} cannot be divided by --recurrence={recurrence}; use --recurrence=-1"


def _sync_policies_share_envs(cfg: AttrDict) -> str | None:
    envs, policies = cfg.num_workers * cfg.num_envs_per_worker, cfg.num_policies
    if cfg.async_rl or envs % policies == 0:
        return None
    return (
        f"--async_rl=False gives each policy the same number of environments, but --num_workers times "
        f"--num_envs_per_worker = {envs} cannot be divided by --num_policies={policies}; change one of them"
    )


def _batched_workers_serve_all_policies(cfg: AttrDict) -> str | None:
    """A batched rollout worker serves one policy; one nobody serves would never train, and the run never end."""
    workers, policies = cfg.num_workers, cfg.num_policies
    if not cfg.batched_sampling or policies == 1:
        return None
    if workers < policies:
        return (
            f"--batched_sampling=True: --num_workers={workers} cannot serve --num_policies={policies}; "
            "each policy needs a worker"
        )
    if cfg.async_rl or workers % policies == 0:
        return None
    return (
        f"--async_rl=False with --batched_sampling=True needs the same number of workers for every policy; make "
        f"--num_workers={workers} a multiple of --num_policies={policies}"
    )


def _adaptive_lr_interval(cfg: AttrDict) -> str | None:
    if not cfg.lr_schedule.startswith("kl_adaptive") or cfg.lr_adaptive_min <= cfg.lr_adaptive_max:
        return None
    return (
        f"--lr_adaptive_min={cfg.lr_adaptive_min} is above --lr_adaptive_max={cfg.lr_adaptive_max}; "
        f"with --lr_schedule={cfg.lr_schedule} it must not be"
    )


def _tf32_is_for_gpus(cfg: AttrDict) -> str | None:
    if cfg.mixed_precision != "tf32" or cfg.device != "cpu":
        return None
    return (
        "--mixed_precision=tf32 is arithmetic of GPUs and does nothing with --device=cpu; "
        "use --mixed_precision=bf16 or none"
    )


def _pbt_factors(cfg: AttrDict) -> str | None:
    if not cfg.with_pbt or cfg.pbt_perturb_min <= cfg.pbt_perturb_max:
        return None
    return f"--pbt_perturb_min={cfg.pbt_perturb_min} is above --pbt_perturb_max={cfg.pbt_perturb_max}; exchange the two"


def _curriculum_has_one_policy(cfg: AttrDict) -> str | None:
    if cfg.curriculum == "none" or cfg.num_policies == 1:
        return None
    return (
        f"--curriculum={cfg.curriculum} chooses levels for one policy, but --num_policies={cfg.num_policies}; train "
        "the policies in runs of their own, or use --curriculum=none"
    )


def _curriculum_needs_single_envs(cfg: AttrDict) -> str | None:
    if cfg.curriculum == "none" or not cfg.batched_sampling:
        return None
    return (
        f"--curriculum={cfg.curriculum} resets environments one by one, which --batched_sampling=True does not allow; "
        "use --batched_sampling=False"
    )


def _weights_of_levels_are_positive(cfg: AttrDict) -> str | None:
    is_replaying = cfg.curriculum in ("plr", "accel")
    if not is_replaying or cfg.curriculum_use_score_ranks or cfg.curriculum_score != "max_mc":
        return None
    return (
        "--curriculum_score=max_mc can be negative, so it cannot be a weight; use --curriculum_use_score_ranks=True "
        "or another score"
    )


def _eval_frameskip_divides(cfg: AttrDict) -> str | None:
    skip, eval_skip = cfg.env_frameskip, cfg.eval_env_frameskip
    if eval_skip is None or skip % eval_skip == 0:
        return None
    return f"--eval_env_frameskip={eval_skip} must divide --env_frameskip={skip}; for example --eval_env_frameskip=1"


def _policy_exists(cfg: AttrDict) -> str | None:
    if cfg.policy_index < cfg.num_policies:
        return None
    return (
        f"--policy_index={cfg.policy_index}: the experiment has --num_policies={cfg.num_policies}; "
        f"use an index from 0 to {cfg.num_policies - 1}"
    )


def _video_is_in_the_experiment(cfg: AttrDict) -> str | None:
    if not cfg.video_name or not leads_outside(cfg.video_name):
        return None
    return f"--video_name={cfg.video_name}: leads out of the experiment folder; for example --video_name=replay.mp4"


def _csv_is_in_the_experiment(cfg: AttrDict) -> str | None:
    if not cfg.csv_folder_name or not leads_outside(cfg.csv_folder_name):
        return None
    return (
        f"--csv_folder_name={cfg.csv_folder_name}: leads out of the experiment folder; "
        "for example --csv_folder_name=csv"
    )


TRAINING_RULES = (
    Rule(("num_envs_per_worker", "worker_num_splits"), _splits_divide_envs),
    Rule(("batch_size", "rollout"), _batch_holds_whole_rollouts),
    Rule(("normalize_returns", "with_vtrace"), _no_normalized_returns_with_vtrace),
    Rule(("use_rnn", "with_vtrace", "rollout", "recurrence"), _recurrence_of_rnn),
    Rule(("use_rnn", "with_vtrace", "rollout", "recurrence"), _recurrence_of_vtrace),
    Rule(("use_rnn", "with_vtrace", "rollout", "recurrence", "num_batches_per_epoch"), _recurrence_divides_rollout),
    Rule(("async_rl", "num_workers", "num_envs_per_worker", "num_policies"), _sync_policies_share_envs),
    Rule(("batched_sampling", "async_rl", "num_workers", "num_policies"), _batched_workers_serve_all_policies),
    Rule(("lr_schedule", "lr_adaptive_min", "lr_adaptive_max"), _adaptive_lr_interval),
    Rule(("mixed_precision", "device"), _tf32_is_for_gpus),
    Rule(("with_pbt", "pbt_perturb_min", "pbt_perturb_max"), _pbt_factors),
    Rule(("curriculum", "num_policies"), _curriculum_has_one_policy),
    Rule(("curriculum", "batched_sampling"), _curriculum_needs_single_envs),
    Rule(("curriculum", "curriculum_score", "curriculum_use_score_ranks"), _weights_of_levels_are_positive),
)

EVALUATION_RULES = (
    Rule(("env_frameskip", "eval_env_frameskip"), _eval_frameskip_divides),
    Rule(("policy_index", "num_policies"), _policy_exists),
    Rule(("video_name",), _video_is_in_the_experiment),
    Rule(("csv_folder_name",), _csv_is_in_the_experiment),
)


def _sync_dataset_is_whole_rollouts(cfg: AttrDict, env_info: EnvShape) -> str | None:
    """In synchronous mode an iteration learns from complete rollouts of all environments: K B = n (W V A T / P)."""
    if cfg.async_rl:
        return None
    one_iteration = cfg.num_batches_per_epoch * cfg.batch_size
    one_rollout = cfg.num_workers * cfg.num_envs_per_worker * env_info.num_agents * cfg.rollout // cfg.num_policies
    if one_rollout > 0 and one_iteration % one_rollout == 0:
        return None
    return "\n".join(
        (
            "--async_rl=False needs a dataset made of whole rollouts of all environments; change --num_workers, "
            "--num_envs_per_worker, --rollout, --batch_size or --num_batches_per_epoch",
            f"one rollout of all environments: num_workers={cfg.num_workers} * "
            f"num_envs_per_worker={cfg.num_envs_per_worker} * agents={env_info.num_agents} * rollout={cfg.rollout} "
            f"/ num_policies={cfg.num_policies} = {one_rollout} samples",
            f"one training iteration: num_batches_per_epoch={cfg.num_batches_per_epoch} * "
            f"batch_size={cfg.batch_size} = {one_iteration} samples",
            f"iteration / rollout = {one_iteration / max(one_rollout, 1):.3f}, which has to be a whole number >= 1",
        )
    )


def _curriculum_needs_levels(cfg: AttrDict, env_info: Any) -> str | None:
    if cfg.curriculum == "none":
        return None
    spec = env_info.level_spec
    if spec is None:
        return (
            f"--curriculum={cfg.curriculum}: the environment {cfg.env} has no levels; give it the method sample_level "
            "(see LevelInterface in sample_factory.envs.env_utils), or use --curriculum=none"
        )
    if spec.resets_itself:
        return (
            f"--curriculum={cfg.curriculum}: the environment {cfg.env} has several agents and resets itself, so no "
            "level can be given to it; use --curriculum=none"
        )
    if cfg.curriculum == "accel" and not spec.can_mutate:
        return (
            f"--curriculum=accel: the environment {cfg.env} has no method mutate_level; give it one (see "
            "MutableLevelInterface in sample_factory.envs.env_utils), or use --curriculum=plr"
        )
    return None


ENV_RULES = (
    EnvRule(("curriculum",), _curriculum_needs_levels),
    EnvRule(
        (
            "async_rl",
            "num_workers",
            "num_envs_per_worker",
            "rollout",
            "num_policies",
            "batch_size",
            "num_batches_per_epoch",
        ),
        _sync_dataset_is_whole_rollouts,
    ),
)


def warnings(cfg: AttrDict) -> list[str]:
    """Combinations that work but are probably not meant."""
    recurrence = _recurrence(cfg)
    cases = (
        (
            cfg.async_rl and cfg.serial_mode,
            "With --serial_mode=True nothing runs in parallel, so --async_rl=True only makes experience older; "
            "consider --async_rl=False",
        ),
        (
            cfg.num_policies > 1 and cfg.batched_sampling,
            "With --batched_sampling=True all agents of a rollout worker are controlled by one policy; "
            "--batched_sampling=False mixes --num_policies policies",
        ),
        (
            not cfg.async_rl and cfg.num_policies > 1,
            "--async_rl=False with several policies is experimental",
        ),
        (
            not cfg.use_rnn and not cfg.with_vtrace and recurrence > 1,
            f"--recurrence={recurrence} has no use without a recurrent core; --recurrence=1 is faster",
        ),
        (
            cfg.ppo_clip_ratio == 0,
            "--ppo_clip_ratio=0 leaves nothing to gain from a change of the policy after the first SGD step on a "
            "dataset; it is usually between 0.05 and 0.3",
        ),
        (
            cfg.with_vtrace and cfg.vtrace_rho == 0,
            "--vtrace_rho=0 gives every sample the weight zero, so the policy learns nothing from rewards; the usual "
            "value is 1",
        ),
        (
            cfg.with_pbt and cfg.num_policies == 1,
            "--with_pbt=True does nothing with a single policy; give --num_policies=2 or more",
        ),
        (
            cfg.lr_schedule == "linear_decay"
            and cfg.train_for_env_steps >= FLAGS["train_for_env_steps"].default_value(),
            f"--lr_schedule=linear_decay reaches zero at --train_for_env_steps={cfg.train_for_env_steps}, so the "
            "learning rate hardly changes; give the number of steps you want to train for",
        ),
    )
    return [text for applies, text in cases if applies]
