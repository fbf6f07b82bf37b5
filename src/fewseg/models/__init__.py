"""Networks and few-shot methods: operations, backbones, methods, checkpoints, the presence score."""
