"""The demonstration: recorded camera footage through a real predictor node. Run `make demo`."""
