"""Pictures of mazes, grids of levels, PNG and GIF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.level import levels_from_text
from sample_factory.ued.envs.maze.rendering import render_cells, tile_pictures
from sample_factory.ued.envs.pictures import image_grid, level_images, require_renderable, save_gif, save_level_grid
from sample_factory.ued.envs.registration import make_ued_env

GREY, GREEN, BLACK = [100, 100, 100], [0, 255, 0], [0, 0, 0]


@pytest.fixture
def env() -> MazeEnv:
    env = make_ued_env("Maze", height=2, width=4, n_walls=0)
    assert isinstance(env, MazeEnv)
    return env


def test_tiles_are_where_they_belong(env: MazeEnv) -> None:
    state = env.reset(levels_from_text([">.#.\n...G"]))
    image = env.render(state, tile_px=16, highlight=False)[0]
    assert image.shape == (4 * 16, 6 * 16, 3)
    assert image.dtype == np.uint8
    assert image[24, 56].tolist() == GREY  # wall
    assert image[40, 72].tolist() == GREEN
    assert image[24, 40].tolist() == BLACK
    assert image[24, 24].tolist() == [255, 0, 0]
    border = (image[:16], image[-16:], image[:, :16], image[:, -16:])
    assert all((side == 100).all() for side in border)


def test_tiles_have_thin_lines_at_the_top_and_on_the_left() -> None:
    empty = tile_pictures(32)[0]
    assert (empty[0] > 90).all()
    assert (empty[:, 0] > 90).all()
    assert not empty[1:, 1:].any()


def test_corners_of_the_triangle() -> None:
    red = tile_pictures(100)[3][..., 0]
    rows, columns = np.nonzero(red > 128)
    assert (columns.min(), columns.max()) == pytest.approx((12, 86), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((19, 80), abs=1)
    tip = rows[columns >= columns.max() - 1]
    assert float(tip.mean()) == pytest.approx(49.5, abs=1)


def test_the_view_is_lit_and_the_rest_is_not(env: MazeEnv) -> None:
    state = env.reset(levels_from_text(["...>\nG..."]))
    plain, lit = (env.render(state, tile_px=8, highlight=highlight)[0] for highlight in (False, True))
    changed = (plain != lit).any(-1).reshape(4, 8, 6, 8).all((1, 3))
    # the agent looks right from the last column: it sees its own and the border
    assert changed.tolist() == [[False] * 4 + [True] * 2] * 4
    np.testing.assert_array_equal(lit[0, -1], np.round(100 + 0.3 * 155))


@pytest.mark.parametrize("direction", range(4))
def test_the_triangle_points_where_the_agent_looks(direction: int) -> None:
    red = tile_pictures(32)[3 + direction][..., 0] > 128
    rows, columns = np.nonzero(red)
    centre = np.array([columns.mean(), rows.mean()]) - 15.5
    # the area is smaller at the tip, so the mean lies behind the middle of its extent
    extent = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2 - 15.5
    tip = extent - centre
    assert int(np.argmax([tip[0], tip[1], -tip[0], -tip[1]])) == direction


def test_cells_are_drawn_like_states(env: MazeEnv) -> None:
    state = env.reset(levels_from_text([">.#.\n...G"]))
    cells = np.array([[[1] * 6, [1, 3, 0, 1, 0, 1], [1, 0, 0, 0, 2, 1], [1] * 6]])
    np.testing.assert_array_equal(render_cells(cells, 8), env.render(state, tile_px=8, highlight=False))


def test_tiles_need_pixels(env: MazeEnv) -> None:
    with pytest.raises(ValueError, match="tile_px"):
        env.render(env.reset(levels_from_text([">.#.\n...G"])), tile_px=0)


def test_grid_of_images() -> None:
    images = [np.full((2, 3, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    grid = image_grid(images, gap_px=1)
    assert grid.shape == (2 * 3 + 1, 2 * 4 + 1, 3)
    assert grid[1, 1, 0] == 10 and grid[1, 5, 0] == 20 and grid[4, 1, 0] == 30
    assert (grid[4:, 5:] == 255).all() and (grid[0] == 255).all()
    assert image_grid(images, columns=9, gap_px=0).shape == (2, 9, 3)
    with pytest.raises(ValueError, match="no images"):
        image_grid([])
    with pytest.raises(ValueError, match="at least one column"):
        image_grid(images, columns=0)


def test_files(env: MazeEnv, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    generator = torch.Generator().manual_seed(0)
    levels = env.sample_levels(5, generator)
    path = tmp_path / "new" / "levels.png"
    save_level_grid(env, levels, path, generator, columns=3)
    with image_module.open(path) as png:
        expected = image_grid(level_images(env, levels, generator), columns=3)
        np.testing.assert_array_equal(np.asarray(png), expected)

    state = env.reset(levels)
    frames = [env.render(state)[0]]
    for _ in range(3):
        env.step(state, torch.full((5,), 1))
        frames.append(env.render(state)[0])
    save_gif(frames, tmp_path / "episode.gif")
    with image_module.open(tmp_path / "episode.gif") as gif:
        assert (gif.n_frames, gif.size) == (4, (6 * 32, 4 * 32))


def test_environments_without_pictures_say_so() -> None:
    class Blind:
        pass

    blind: Any = Blind()
    with pytest.raises(ValueError, match=r"Blind cannot be drawn: give it a method render"):
        require_renderable(blind)
