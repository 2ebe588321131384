"""Requests, answers and outcomes of the directory methods."""
