"""The back end of Label Studio."""
