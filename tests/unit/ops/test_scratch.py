"""Temporary folders of processes that were killed are removed by the next one, those of others are not."""

import os
import tempfile
from pathlib import Path

import pytest

from worker.ops.scratch import scratch_folder


def test_what_a_killed_process_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, young, other = tmp_path / "a-left", tmp_path / "a-young", tmp_path / "b-left"
    for folder in (left, young, other):
        folder.mkdir()
        (folder / "rows").write_text("")
    with scratch_folder("a-") as running:
        for folder in (left, other, running):
            os.utime(folder, (0, 0))
        with scratch_folder("a-") as folder:
            assert {*tmp_path.iterdir()} == {young, other, running, folder}
    assert {*tmp_path.iterdir()} == {young, other}
