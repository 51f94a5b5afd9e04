"""What a genome is worth: proxy training, measured latency and memory. torch is imported only when something runs."""

from .evaluate import EXACT, MEASURED, TRAINED, ProxyEvaluator, resolve_device

__all__ = ["EXACT", "MEASURED", "TRAINED", "ProxyEvaluator", "resolve_device"]
