"""What everything else stands on: errors, values, files, devices; imports nothing else of the package."""
