"""The format of matrix products: who gets which, and that it changes little."""

from __future__ import annotations

import pytest
import torch

from evonas.errors import EvonasError
from evonas.fitness import ProxyEvaluator, resolve_precision
from evonas.fitness.precision import autocast, precision_of
from evonas.fitness.train import train

FEW = 8 * 16 * 12


def test_auto_is_what_the_device_has_units_for(monkeypatch):
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    for has in ((False, False), (True, False), (False, True)):
        for name, value in zip(names, has):
            monkeypatch.setattr(torch.cpu, name, lambda value=value: value)
        assert resolve_precision("auto", "cpu") == ("bfloat16" if any(has) else "float32")
        assert resolve_precision("float32", "cuda") == "float32" and resolve_precision("bfloat16", "cpu") == "bfloat16"


@pytest.mark.parametrize(("has", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_what_a_gpu_has_units_for(monkeypatch, has, precision):
    def supported(including_emulation=True):
        return has or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert resolve_precision("auto", "cuda") == precision


def test_a_torch_that_can_not_tell_is_taken_at_its_slowest(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert resolve_precision("auto", "cpu") == "float32"


@pytest.mark.parametrize("name", ["", "float16", "BFLOAT16", "bf16"])
def test_another_name_is_refused_with_those_that_are_allowed(name):
    with pytest.raises(EvonasError) as error:
        resolve_precision(name, "cpu")
    assert "--precision auto, float32 or bfloat16" in error.value.hint
    with pytest.raises(EvonasError):
        ProxyEvaluator("text", None, 16, needs=("loss",), tokens=100, validation_tokens=100, precision=name)


def test_narrow_networks_stay_in_float32_on_a_cpu():
    assert precision_of(48, "bfloat16", "cpu") == "float32" and precision_of(64, "bfloat16", "cpu") == "bfloat16"
    assert precision_of(48, "bfloat16", "cuda") == "bfloat16" and precision_of(512, "float32", "cpu") == "float32"


def test_products_are_in_the_format_asked_for():
    a = torch.ones(2, 2)
    for name in ("float32", "bfloat16"):
        with autocast("cpu", name):
            assert (a @ a).dtype == getattr(torch, name)
    assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_bfloat16_learns_as_float32_does(genome, task, optimizer):
    wide = genome(d_model=64, optimizer=optimizer)
    exact, rounded = (train(wide, task, 10 * FEW, seed=0, precision=p) for p in ("float32", "bfloat16"))
    assert rounded.loss != exact.loss
    assert rounded.loss == pytest.approx(exact.loss, abs=0.03)
    assert all(p.dtype == torch.float32 for p in rounded.model.parameters())
    assert train(wide, task, 10 * FEW, seed=0, precision="bfloat16").loss == rounded.loss


def test_a_record_says_in_which_format_it_was_trained(genome):
    made = ProxyEvaluator("text", None, 16, needs=("loss",), tokens=FEW, validation_tokens=160, precision="bfloat16")
    assert made.train(genome(d_model=64)).provenance["precision"] == "bfloat16"
    assert made.train(genome(d_model=32)).provenance["precision"] == "float32"
