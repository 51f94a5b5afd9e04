"""evonas: evolutionary search for transformer architectures and the hyperparameters that train them."""

__version__ = "0.1.0"
