"""Trainable matrices held as trains, in both layouts, their config fields, and products of thin matrices; no layers."""
