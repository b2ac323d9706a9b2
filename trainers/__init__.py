"""Trainers: they take a level-3 encoder from the registry and never import a plugin."""
