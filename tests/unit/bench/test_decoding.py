"""Both engines are timed on the same rollouts; here without compiled code, which takes several seconds to make."""

import pytest
import torch

import bench.decoding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_case_is_timed_round_by_round(monkeypatch, dtype):
    monkeypatch.setattr("engine.generation.compiled.BACKEND", "eager")
    monkeypatch.setattr(bench.decoding, "ROUNDS", 2)
    monkeypatch.setattr(bench.decoding, "RESPONSE_TOKENS", 2)
    own, compiled, first = bench.decoding.time_case(2, 2, dtype)
    assert len(own) == len(compiled) == 2
    assert min(*own, *compiled, first) > 0
