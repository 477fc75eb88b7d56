"""miStudio train."""
