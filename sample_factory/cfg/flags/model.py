"""Flags of the default model."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import Flag, Section, at_least, finite, positive, str2bool

_ENCODER = (
    Flag(
        "encoder_mlp_layers",
        int,
        [512, 512],
        "Layer sizes of the encoder of vector observations. An empty list: no layers.",
        nargs="*",
        bounds=at_least(1),
    ),
    Flag(
        "encoder_conv_architecture",
        str,
        "convnet_simple",
        "Network for image observations.",
        choices=("convnet_simple", "convnet_impala", "convnet_atari", "resnet_impala"),
        open_choices=True,
    ),
    Flag(
        "encoder_conv_mlp_layers",
        int,
        [512],
        "Sizes of the fully connected layers after the image network.",
        nargs="*",
        bounds=at_least(1),
    ),
)

_CORE = (
    Flag("use_rnn", str2bool, True, "Give the policy a recurrent core (memory)."),
    Flag("rnn_size", int, 512, "Hidden units of the recurrent core.", bounds=at_least(1)),
    Flag("rnn_type", str, "gru", "Kind of recurrent core.", choices=("gru", "lstm"), open_choices=True),
    Flag("rnn_num_layers", int, 1, "Layers of the recurrent core.", bounds=at_least(1)),
)

_HEADS = (
    Flag(
        "decoder_mlp_layers",
        int,
        [],
        "Layer sizes of the decoder between core and heads. An empty list: no layers.",
        nargs="*",
        bounds=at_least(1),
    ),
    Flag(
        "nonlinearity",
        str,
        "elu",
        "Activation function.",
        choices=("elu", "relu", "tanh"),
        open_choices=True,
    ),
    Flag(
        "policy_initialization",
        str,
        "orthogonal",
        "How weights are initialised. See --weight_init_scope for which ones.",
        choices=("orthogonal", "xavier_uniform", "torch_default"),
        open_choices=True,
    ),
    Flag("policy_init_gain", float, 1.0, "Gain of the orthogonal initialisation.", bounds=finite()),
    Flag(
        "actor_critic_share_weights",
        str2bool,
        True,
        "Use one network with two heads for actor and critic; False: two separate networks.",
    ),
    Flag(
        "adaptive_stddev",
        str2bool,
        True,
        "Continuous actions: the standard deviation depends on the observation. False: one learned value per action.",
    ),
    Flag(
        "continuous_tanh_scale",
        float,
        0.0,
        "Continuous actions without --adaptive_stddev: limit means to plus or minus this value by a scaled tanh; "
        "0 or less: no limit.",
        bounds=finite(),
    ),
    Flag(
        "initial_stddev",
        float,
        1.0,
        "Continuous actions without --adaptive_stddev: initial standard deviation.",
        bounds=positive(),
    ),
    Flag(
        "weight_init_scope",
        str,
        "effective",
        "Which weights --policy_initialization applies to. effective: heads, residual networks and custom encoders, "
        "while plain MLP and convolution stacks keep the default of torch, as in Sample Factory 2. all: every layer.",
        choices=("effective", "all"),
        extension=True,
    ),
)

MODEL = Section("model", "Model", _ENCODER + _CORE + _HEADS)
