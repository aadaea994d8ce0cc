"""Flags of the learning algorithm: returns, losses, optimiser, normalisation."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import Flag, Range, Section, at_least, between, finite, positive, str2bool

_RETURNS = (
    Flag("gamma", float, 0.99, "Discount factor.", bounds=between(0, 1)),
    Flag("reward_scale", float, 1.0, "Rewards are multiplied by this number first.", bounds=finite()),
    Flag(
        "reward_clip",
        float,
        1000.0,
        "Scaled rewards are clipped to plus or minus this value; inf: no clipping.",
        bounds=positive(allow_inf=True),
    ),
    Flag(
        "value_bootstrap",
        str2bool,
        False,
        "When an episode ends because of a time limit, add the discounted value estimate to its last reward.",
    ),
    Flag(
        "normalize_returns",
        str2bool,
        True,
        "Let the critic predict returns normalised by running statistics. Not possible with --with_vtrace.",
    ),
)

_LOSSES = (
    Flag(
        "exploration_loss_coeff",
        float,
        0.003,
        "Weight of the exploration loss; 0 turns it off.",
        bounds=finite(),
    ),
    Flag("value_loss_coeff", float, 0.5, "Weight of the value loss.", bounds=at_least(0)),
    Flag(
        "kl_loss_coeff",
        float,
        0.0,
        "Weight of the KL divergence from the policy that collected the data; 0 turns it off. "
        "Useful for continuous actions.",
        bounds=at_least(0),
    ),
    Flag(
        "exploration_loss",
        str,
        "entropy",
        "What keeps the policy exploring: high entropy, or a small symmetric KL divergence from a uniform policy.",
        choices=("entropy", "symmetric_kl"),
    ),
    Flag(
        "gae_lambda",
        float,
        0.95,
        "Trade-off between bias (0) and variance (1) in generalised advantage estimation. Not used with V-trace.",
        bounds=between(0, 1),
    ),
    Flag(
        "ppo_clip_ratio",
        float,
        0.1,
        "With value e the probability ratio of the PPO loss is clipped to [1 / (1 + e), 1 + e].",
        bounds=at_least(0, allow_inf=True),
    ),
    Flag(
        "ppo_clip_value",
        float,
        1.0,
        "Largest change of a value estimate that the value loss rewards.",
        bounds=at_least(0, allow_inf=True),
    ),
    Flag(
        "with_vtrace",
        str2bool,
        False,
        "Correct for policy lag with V-trace instead of generalised advantage estimation.",
    ),
    Flag("vtrace_rho", float, 1.0, "V-trace: upper bound of importance weights.", bounds=at_least(0, allow_inf=True)),
    Flag(
        "vtrace_c",
        float,
        1.0,
        "V-trace: upper bound of the weights that carry corrections back in time.",
        bounds=at_least(0, allow_inf=True),
    ),
)

_OPTIMISER = (
    Flag("optimizer", str, "adam", "Optimiser.", choices=("adam", "lamb")),
    Flag("adam_eps", float, 1e-6, "Epsilon of the optimiser.", bounds=at_least(0)),
    Flag(
        "adam_beta1",
        float,
        0.9,
        "Decay of the optimiser's mean of gradients.",
        bounds=between(0, 1, high_open=True),
    ),
    Flag(
        "adam_beta2",
        float,
        0.999,
        "Decay of the optimiser's mean of squared gradients.",
        bounds=between(0, 1, high_open=True),
    ),
    Flag(
        "max_grad_norm",
        float,
        4.0,
        "Gradients are scaled down to this L2 norm; 0 or less: no clipping.",
        bounds=Range(allow_inf=True),
    ),
    Flag("learning_rate", float, 1e-4, "Learning rate, or its start value.", bounds=at_least(0)),
    Flag(
        "lr_schedule",
        str,
        "constant",
        "How the learning rate changes: not at all, so that the KL divergence of a minibatch or of an epoch stays "
        "near --lr_schedule_kl_threshold, or linearly down to zero at --train_for_env_steps.",
        choices=("constant", "kl_adaptive_minibatch", "kl_adaptive_epoch", "linear_decay"),
    ),
    Flag(
        "lr_schedule_kl_threshold",
        float,
        0.008,
        "KL divergence that the adaptive schedules aim at.",
        bounds=at_least(0),
    ),
    Flag("lr_adaptive_min", float, 1e-6, "Smallest learning rate of the adaptive schedules.", bounds=at_least(0)),
    Flag("lr_adaptive_max", float, 1e-2, "Largest learning rate of the adaptive schedules.", bounds=at_least(0)),
    Flag(
        "mixed_precision",
        str,
        "none",
        "Arithmetic of the learner. none: float32. bf16: matrix products of encoders and recurrent cores are computed "
        "in bfloat16 (on the CPU not those of LSTM and custom cores); weights, heads, losses and optimiser stay in "
        "float32. tf32: matrix products on a GPU use TensorFloat-32. The last two are less exact.",
        choices=("none", "bf16", "tf32"),
        extension=True,
    ),
    Flag(
        "cuda_graphs",
        str,
        "auto",
        "On a GPU, record the forward pass of sampling, the preparation of batches and the SGD step as CUDA graphs, "
        "which saves the launches of single kernels. auto: models made of parts of this package and of PyTorch. "
        "always: also other models, which must compute the same operations every time, whatever the data are. "
        "never: launch kernels one by one.",
        choices=("auto", "always", "never"),
        extension=True,
    ),
    Flag(
        "max_skipped_updates",
        int,
        20,
        "Updates whose gradient is not finite are skipped; after this many in a row the policy goes back to its newest "
        "good checkpoint.",
        bounds=at_least(1),
        extension=True,
        quantity=True,
    ),
    Flag(
        "max_rollbacks",
        int,
        3,
        "How often a policy may go back to a checkpoint because it diverged; the next time ends the run. 0: never.",
        bounds=at_least(0),
        extension=True,
        quantity=True,
    ),
)

_NORMALISATION = (
    Flag(
        "obs_subtract_mean",
        float,
        0.0,
        "Number subtracted from the observation with key obs.",
        bounds=finite(),
    ),
    Flag(
        "obs_scale",
        float,
        1.0,
        "The observation with key obs is divided by this number after the subtraction (255 for bytes).",
        bounds=positive(),
    ),
    Flag("normalize_input", str2bool, True, "Normalise observations by running mean and variance."),
    Flag(
        "normalize_input_keys",
        str,
        None,
        "Keys of dictionary observations to normalise. Not set: all keys.",
        nargs="*",
        default_text="all keys",
    ),
)

LEARNING = Section("learning", "Learning algorithm", _RETURNS + _LOSSES + _OPTIMISER + _NORMALISATION)
