"""Flags of the built-in networks: groups ``student_model_args`` and ``teacher_model_args``.

minimax has them for mazes only. The networks here are made from the observation specification of an environment, so
every environment has these flags; a network of your own brings its own group.
"""

from __future__ import annotations

from sample_factory.cfg.flags.flag import at_least
from sample_factory.ued.config.flag import Group, UedFlag, flag


def _recurrence_and_heads(agent: str) -> tuple[UedFlag, ...]:
    return (
        flag(
            f"{agent}_recurrent_arch",
            str,
            None,
            "Recurrent core; none: feed-forward.",
            choices=("gru", "lstm", "s5"),
            value_optional=True,
        ),
        flag(f"{agent}_recurrent_hidden_dim", int, 0, "Width of the core.", bounds=at_least(0)),
        flag(f"{agent}_hidden_dim", int, 32, "Width of the layers of the heads.", bounds=at_least(1)),
        flag(f"{agent}_n_hidden_layers", int, 1, "Hidden layers per head.", bounds=at_least(0)),
    )


def _activation_and_s5(agent: str) -> tuple[tuple[UedFlag, ...], tuple[UedFlag, ...]]:
    activation = flag(
        f"{agent}_base_activation",
        str,
        "relu",
        "Activation behind the convolution.",
        choices=("relu", "gelu", "crelu", "leaky_relu"),
    )
    s5 = (
        flag(f"{agent}_s5_n_blocks", int, 1, "Blocks of a state matrix.", bounds=at_least(1)),
        flag(f"{agent}_s5_n_layers", int, 4, "Stacked layers.", bounds=at_least(1)),
        flag(
            f"{agent}_s5_layernorm_pos", str, None, "Place of the layer norm; none: no norm.", choices=("pre", "post")
        ),
        flag(
            f"{agent}_s5_activation",
            str,
            "half_glu1",
            "Gate behind a layer.",
            choices=("half_glu1", "half_glu2", "full_glu", "gelu"),
        ),
    )
    return (activation,), s5


_STUDENT_ACTIVATION, _STUDENT_S5 = _activation_and_s5("student")
_TEACHER_ACTIVATION, _TEACHER_S5 = _activation_and_s5("teacher")

_STUDENT = Group(
    title="Student: network",
    dest="student_model_args",
    prefix="student",
    condition={"student_model_name": ("default_student_cnn",)},
    flags=(
        *_recurrence_and_heads("student"),
        flag("student_n_conv_filters", int, 16, "Filters of the convolution.", bounds=at_least(1)),
        flag(
            "student_n_scalar_embeddings",
            int,
            4,
            "Rows of the direction embedding; 0: a dense layer instead.",
            bounds=at_least(0),
        ),
        flag(
            "student_scalar_embed_dim",
            int,
            5,
            "Width of the direction embedding; 0: no such input.",
            bounds=at_least(0),
        ),
        *_STUDENT_ACTIVATION,
        flag("student_value_ensemble_size", int, 1, "Value heads.", bounds=at_least(1)),
        *_STUDENT_S5,
    ),
)

_TEACHER = Group(
    title="Teacher: network",
    dest="teacher_model_args",
    prefix="teacher",
    condition={"train_runner": ("paired",), "teacher_model_name": ("default_teacher_cnn",)},
    flags=(
        *_recurrence_and_heads("teacher"),
        flag("teacher_n_conv_filters", int, 128, "Filters of the convolution.", bounds=at_least(1)),
        flag("teacher_scalar_embed_dim", int, 10, "Width of the embedding of the time step.", bounds=at_least(0)),
        *_TEACHER_ACTIVATION,
        *_TEACHER_S5,
    ),
)

MODEL_GROUPS = (_STUDENT, _TEACHER)
