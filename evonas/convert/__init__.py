"""Models of other libraries in and out. Reading a Hugging Face config needs neither torch nor transformers."""

from .huggingface import Import, from_config, read_config

__all__ = ["Import", "from_config", "read_config"]
