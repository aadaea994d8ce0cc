from __future__ import annotations

import shlex

import numpy as np
import pytest

from sample_factory.launcher.launcher_utils import seeds
from sample_factory.launcher.run_description import (
    Experiment,
    ParamGrid,
    ParamList,
    RunDescription,
    short_param_names,
)


def test_seeds():
    generated = seeds(100)
    assert len(generated) == 100 and len(set(generated)) > 90
    assert all(1000000 <= seed < 9999999 for seed in generated)


def test_grid_order_and_grouped_parameters():
    grid = ParamGrid([("seed", [1, 2]), (("env", "arch"), [("a", "x"), ("b", "y")])])
    assert list(grid.generate_params()) == [
        {"seed": 1, "env": "a", "arch": "x"},
        {"seed": 1, "env": "b", "arch": "y"},
        {"seed": 2, "env": "a", "arch": "x"},
        {"seed": 2, "env": "b", "arch": "y"},
    ]
    assert list(ParamGrid([]).generate_params()) == []


def test_random_order_keeps_combinations_and_types():
    grid = ParamGrid([("seed", list(range(10))), ("value", ["x", 3.5])])
    shuffled = list(grid.generate_params(randomize=True))
    ordered = list(grid.generate_params(randomize=False))
    assert shuffled != ordered
    assert sorted(map(str, shuffled)) == sorted(map(str, ordered))
    assert {type(params["seed"]) for params in shuffled} == {int}

    combinations = [{"a": i} for i in range(20)]
    param_list = ParamList(combinations)
    assert list(param_list.generate_params(randomize=False)) == combinations
    random_list = list(param_list.generate_params())
    assert random_list != combinations and sorted(random_list, key=lambda p: p["a"]) == combinations


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (["learning_rate", "learner_rate", "lr"], ["l.rat", "l.rate", "lr"]),
        (["seed", "session", "seed.bar"], ["see", "ses", "s.bar"]),
        (["seeda", "seedb"], ["see", "seed"]),
        (["x.y-z_foo", "a__b", "_"], ["x.y.z.foo", "a.b", "_"]),
        (["encoder_conv_architecture"], ["e.c.arc"]),
    ],
)
def test_short_names(params, expected):
    assert list(short_param_names(params).values()) == expected


GRID = ParamGrid(
    [
        ("seed", [1]),
        (("env", "encoder_conv_architecture"), [("a", "x")]),
        ("learning_rate", [0.001]),
        ("lr_schedule", ["c"]),
    ]
)
NAME = "00_base_see_1_env_a_e.c.arc_x_l.rat_0.001_l.sch_c"


def test_commands_of_the_reference_example(tmp_path):
    experiment = Experiment("base", "python -m x", GRID.generate_params(False), env_vars={"A": "1"})
    run_description = RunDescription("run", [experiment])
    run_description.experiment_suffix = "sfx"
    assert list(run_description.generate_experiments(str(tmp_path))) == [
        (
            "python -m x --seed=1 --env=a --encoder_conv_architecture=x --learning_rate=0.001 --lr_schedule=c "
            f"--experiment={NAME} --train_dir={tmp_path}/run/base_sfx",
            NAME,
            "run/base_sfx",
            {"A": "1"},
        )
    ]
    assert (tmp_path / "run" / "base_sfx").is_dir()


def test_other_argument_names_and_plain_experiment_names(tmp_path):
    experiments = [Experiment("base", "python x.py", ParamGrid([("p", [0.5, None])]).generate_params(False))]
    run_description = RunDescription("run", experiments, "name", "-d", False, "-")
    generated = list(run_description.generate_experiments(str(tmp_path / "t"), makedirs=False))
    assert [command for command, *_ in generated] == [
        f"python x.py -p=0.5 name=00_base -d={tmp_path}/t/run/base_",
        f"python x.py -p=None name=01_base -d={tmp_path}/t/run/base_",
    ]
    assert not (tmp_path / "t").exists()


def test_numpy_values_and_no_parameters():
    grid = ParamGrid([("p", list(np.arange(2)))])
    names = [name for _, name in Experiment("e", "cmd", grid.generate_params()).generate_experiments("--n", True, "--")]
    assert names == ["00_e_p_0", "01_e_p_1"]
    assert list(Experiment("e", "cmd").generate_experiments("--n", True, "--")) == [("cmd --n=00_e", "00_e")]


@pytest.mark.parametrize("value", [[16], "[16,32]", "module:Env-v0", "a+b=c@d"], ids=str)
def test_values_that_the_original_can_start_keep_its_names(value):
    ((command, name),) = Experiment("e", "cmd", [{"p_q": value}]).generate_experiments("--n", True, "--")
    assert name == f"00_e_p.q_{value}"
    assert shlex.split(command) == ["cmd", f"--p_q={value}", f"--n={name}"]


def test_values_with_shell_characters_stay_one_argument_and_make_safe_names():
    value = "a b/c;$(touch x)"
    ((command, name),) = Experiment("e", "cmd", [{"session": value}]).generate_experiments("--n", True, "--")
    assert shlex.split(command) == ["cmd", f"--session={value}", f"--n={name}"]
    assert name == "00_e_ses_a_b_c___touch_x_"
