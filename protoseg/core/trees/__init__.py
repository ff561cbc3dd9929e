"""Losses on trees of classes."""
