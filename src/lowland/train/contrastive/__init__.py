"""Contrastive training of an image tower and a text tower, as a run like any other."""

from lowland.train.contrastive.recipe import ContrastiveRecipe

__all__ = ["ContrastiveRecipe"]
