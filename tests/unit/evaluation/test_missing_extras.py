"""Features that need an extra say so before any work is done."""

from __future__ import annotations

import pytest

from sample_factory import export_onnx
from sample_factory.cfg.errors import ConfigError
from sample_factory.enjoy import _require_video_encoder
from sample_factory.huggingface import videos


def test_video_without_an_encoder_is_refused_before_the_evaluation(monkeypatch):
    monkeypatch.setattr(videos, "find_ffmpeg", lambda: None)
    monkeypatch.setattr(videos, "is_module_available", lambda name: False)
    with pytest.raises(ConfigError, match="--save_video: No video encoder found"):
        _require_video_encoder()


def test_onnx_export_without_the_extra_names_it(monkeypatch):
    monkeypatch.setattr(export_onnx, "is_module_available", lambda name: False)
    with pytest.raises(RuntimeError, match=r"pip install \"sample-factory\[onnx\]\""):
        export_onnx._write_graph(None, {}, "unused.onnx", has_dynamic_batch=False)
