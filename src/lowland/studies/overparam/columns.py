"""Columns of the runs that the claims read."""

from __future__ import annotations

TRAIN_LOSS = "train/loss"
VALIDATION = "validation/error"
TEST = "test/error"
LAMBDA = "lambda_max"
LEVEL_LAMBDA = "level/lambda_max"
DISTANCE = "distance"
TRAVELLED = "travelled"
