"""Training of methods: data, steps, checkpoints to resume from, calibration."""
