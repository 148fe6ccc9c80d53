"""Runs the README's examples."""

import re
from pathlib import Path

import pytest


def test_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    examples = re.findall(r"```python\n(.*?)```", (root / "python/README.md").read_text(), re.DOTALL)
    assert len(examples) > 3
    names: dict[str, object] = {}
    for example in examples:
        exec(example, names)
    assert "Paris" in capsys.readouterr().out
