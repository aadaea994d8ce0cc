"""Flags: names, types, defaults and places are those of minimax."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from sample_factory.ued.config.flag import UedFlag, parse_bool
from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.parser import all_groups, parse
from sample_factory.ued.config.tables.top_level import RUNNERS
from tests.unit.ued.config.minimax_flags import TABLE

EVERYTHING_ON = {
    "plr": ("--train_runner=plr",),
    "paired": ("--train_runner=paired", "--teacher_model_name=default_teacher_cnn"),
}
SCORES = (
    "relative_regret,mean_relative_regret,population_regret,neg_return,l1_value_loss,positive_value_loss,max_mc,"
    "value_disagreement"
)


class Row(NamedTuple):
    name: str
    kind: str
    default: str
    value_optional: str
    choices: str
    group: str
    key: str


ROWS = [Row(*line.split()) for line in TABLE.strip().splitlines()]
BY_NAME: dict[str, UedFlag] = {flag.name: flag for group in all_groups() for flag in group.flags}


def of_text(kind: str, text: str) -> Any:
    if text == "none":
        return None
    return {"int": int, "float": float, "str": str, "bool": parse_bool}[kind](text)


def command_line_for(row: Row) -> tuple[str, ...]:
    runner = "plr" if row.name.startswith("plr_") or row.name == "ued_score" else "paired"
    return EVERYTHING_ON[runner] if row.name not in ("train_runner", "teacher_model_name") else ()


def test_there_are_all_of_them() -> None:
    assert len(ROWS) == len({row.name for row in ROWS}) == 114


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_definition(row: Row) -> None:
    flag = BY_NAME[row.name]
    assert flag.default == of_text(row.kind, row.default)
    assert flag.type.__name__.replace("str2bool", "bool") == row.kind
    assert flag.value_optional == (row.value_optional == "optional")
    if row.name == "train_runner":
        assert flag.choices == RUNNERS == ("dr", "plr", "paired", "sfl")
    else:
        assert ",".join(flag.choices or ["-"]) == {"SCORES": SCORES}.get(row.choices, row.choices)


@pytest.mark.parametrize("row", [row for row in ROWS if row.name not in ("train_runner", "teacher_model_name")])
def test_place_in_the_result(row: Row) -> None:
    config: Any = parse(command_line_for(row)).config
    group = config if row.group == "top" else config[row.group]
    assert group[row.key] == of_text(row.kind, row.default)


def test_no_two_flags_of_a_run_share_a_place() -> None:
    for extra in (*EVERYTHING_ON.values(), (), ("--train_runner=sfl",)):
        parsed = parse(extra)
        assert count(parsed.config) == len(parsed.values)


def count(config: Config) -> int:
    return sum(count(v) if isinstance(v, Config) else 1 for v in config.values())


@pytest.mark.parametrize("group", all_groups(), ids=lambda group: group.title)
def test_flags_of_other_tables_are_extensions(group: Any) -> None:
    known = {row.name for row in ROWS}
    own = {flag.name for flag in group.flags}
    assert own.isdisjoint(known) if group.extension else own <= known
