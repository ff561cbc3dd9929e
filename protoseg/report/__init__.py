"""Tables, figures and comparisons from records alone; nothing here imports torch."""
