"""Trainable matrices held as trains, in both layouts, with their config fields; the layers on them are elsewhere."""
