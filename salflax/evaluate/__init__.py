"""Evaluation of a predictor: scores, references, controls, tests."""
