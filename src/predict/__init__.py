"""Predictions of finished runs for clips of any file, and their export."""
