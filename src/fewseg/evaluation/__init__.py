"""Scores of methods on lists of episodes: protocols, metrics, journals, reports."""
