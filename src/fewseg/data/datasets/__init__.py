"""Images and masks by class: the benchmarks, folders of one's own, synthetic shapes."""
