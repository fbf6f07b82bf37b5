"""The commands of the command line, one a module: `Options` is the help, `run(options)` does it."""
