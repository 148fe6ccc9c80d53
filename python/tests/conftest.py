from pathlib import Path

import pytest

import ferrum_wgpu

MODEL = Path(__file__).parents[2] / "models/demo-q4_k_m.gguf"


@pytest.fixture(scope="session")
def engine() -> ferrum_wgpu.Engine:
    return ferrum_wgpu.Engine(MODEL, context=512, sequences=4, kv_tokens=2048)
