from .differences import convection, gradient, laplace, shift

__all__ = ["convection", "gradient", "laplace", "shift"]
