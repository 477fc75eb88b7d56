"""Torch code that several services need; importing this package alone does not import torch."""
