"""Figures: what records and tables show, drawn; from records alone."""
