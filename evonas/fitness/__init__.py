"""What a genome is worth: proxy training, measured latency and memory. torch is imported only when something runs."""

from .device import device_text, gpu_workers
from .evaluate import EXACT, MEASURED, TRAINED, ProxyEvaluator, resolve_device
from .precision import resolve_precision

__all__ = [
    "EXACT",
    "MEASURED",
    "TRAINED",
    "ProxyEvaluator",
    "device_text",
    "gpu_workers",
    "resolve_device",
    "resolve_precision",
]
