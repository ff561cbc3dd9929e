"""Trees of classes: their files, and the methods that use one."""
