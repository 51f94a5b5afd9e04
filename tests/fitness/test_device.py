"""The name of the machine that a time belongs to."""

from __future__ import annotations

import platform
from types import SimpleNamespace

import pytest
import torch

from evonas.fitness import device_text, gpu_workers
from evonas.fitness.device import _cpu_model


def test_a_cpu_is_named_by_its_model(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t:  Fast  CPU 9\n\nprocessor\t: 1\nmodel name\t: Other\n")
    assert _cpu_model(path).split() == ["Fast", "CPU", "9"]


@pytest.mark.parametrize("text", [None, "", "BogoMIPS : 50.00\n"])
def test_where_the_system_does_not_say_there_is_a_name_all_the_same(tmp_path, text):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert _cpu_model(path) == (platform.processor() or platform.machine())


def test_it_is_one_line(monkeypatch):
    assert device_text("cpu") and device_text("cpu") == " ".join(device_text("cpu").split())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_named_by_its_model():
    assert device_text("cuda") == torch.cuda.get_device_name()


@pytest.mark.parametrize(("gigabytes", "cores", "workers"), [(6, 16, 1), (16, 16, 2), (80, 16, 8), (80, 4, 4)])
def test_as_many_share_a_gpu_as_its_memory_and_the_cores_allow(monkeypatch, gigabytes, cores, workers):
    found = SimpleNamespace(total_memory=gigabytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    assert gpu_workers(cores) == workers


def test_models_of_arm_are_told_apart_by_their_numbers(tmp_path):
    path = tmp_path / "cpuinfo"
    texts = set()
    for part in ("0xd40", "0xd4f"):
        path.write_text(f"processor\t: 0\nFeatures\t: fp\nCPU implementer\t: 0x41\nCPU part\t: {part}\n")
        texts.add(_cpu_model(path))
        assert part in _cpu_model(path)
    assert len(texts) == 2
