"""Columns of the runs that the claims read."""

from __future__ import annotations

TRAIN_LOSS = "train/loss"
TRAIN_ERROR = "train/error"
VALIDATION = "validation/error"
TEST = "test/error"
LAMBDA = "lambda_max"
LEVEL_LAMBDA = "level/lambda_max"
LEVEL_LOSS = "level/loss"
DISTANCE = "distance"
TRAVELLED = "travelled"
