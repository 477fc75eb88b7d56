"""miStudio explain."""
